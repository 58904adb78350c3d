//! Compiles the protos without protoc, writes the descriptor set for reflection, and records what the binary
//! is built from.

use std::process::Command;
use std::{env, fs, path::PathBuf};

/// Messages of the hot path, which `src/wire` implements by hand so that batches are not parsed.
const PASS_THROUGH: [&str; 8] = [
    "PublishRequest",
    "IngestRequest",
    "ExchangeRequest",
    "ExchangeResponse",
    "SubscribeResponse",
    "PublishResponse",
    "ConsumeResponse",
    "LeaseResponse",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    record_build_info()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = [
        "streamway/v1/stream.proto",
        "streamway/v1/topic.proto",
        "streamway/v1/admin.proto",
        "streamway/v1/group.proto",
        "streamway/v1/error.proto",
        "example/example.proto",
    ];
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();

    // The public API of the crate: typed messages and clients.
    let typed = out.join("typed");
    fs::create_dir_all(&typed)?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".streamway.v1")
        .out_dir(&typed)
        .compile_fds(descriptors.clone())?;

    // Stubs of the server and of the crate's client, which use the messages of `src/wire`.
    let stubs = out.join("stubs");
    fs::create_dir_all(&stubs)?;
    let mut config = tonic_prost_build::configure()
        .codec_path("crate::wire::Codec")
        .extern_path(".streamway.v1", "crate::proto::streamway::v1")
        .extern_path(".example", "crate::proto::example");
    for name in PASS_THROUGH {
        config = config.extern_path(format!(".streamway.v1.{name}"), format!("crate::wire::{name}"));
    }
    config.out_dir(&stubs).compile_fds(descriptors)?;
    Ok(())
}

/// Removes characters that would need escaping in JSON.
fn plain(text: &str) -> String {
    text.trim().chars().filter(|c| c.is_ascii_alphanumeric() || " .-+()_".contains(*c)).collect()
}

/// Asks git for the commit of a clone. Release builds only, as each new commit means a build of the whole crate.
fn checked_out() -> Option<String> {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !is_release || !PathBuf::from(".git").exists() {
        return None;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    // Appended to whenever another commit is checked out.
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "HEAD"])
}

/// Sets the variables that `/version` reads.
fn record_build_info() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    let commit = env::var("BUILD_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(checked_out);
    let commit = commit.unwrap_or_default();
    let rustc = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    println!("cargo:rustc-env=BUILT_FROM_COMMIT={}", plain(&commit));
    println!("cargo:rustc-env=BUILT_FROM_RUSTC={}", plain(&String::from_utf8_lossy(&rustc.stdout)));
    Ok(())
}
