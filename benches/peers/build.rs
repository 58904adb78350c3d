//! Generates the clients that any user of the protos would have, and the limit's service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../../proto");
    let files = [
        "streamway/v1/stream.proto",
        "streamway/v1/topic.proto",
        "streamway/v1/group.proto",
        "example/example.proto",
        "limit.proto",
    ];
    let descriptors = protox::compile(files, ["../../proto", "proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
