//! The tutorial's Python server: grpcio, ten threads, nothing stored; one request, one answer.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tonic::transport::Channel;

use crate::grpc::channel;
use crate::outcome::Outcome;
use crate::pace::Pace;
use crate::peer::{Peer, Process, Reader, SHARED, clone_dir};
use crate::proto::example::Request;
use crate::proto::example::example_service_client::ExampleServiceClient;

pub struct Python {
    process: Process,
    shared: Vec<Channel>,
}

impl Python {
    pub async fn start(interpreter: &Path) -> Outcome<Self> {
        let command = |port: u16, _: &Path| {
            let mut command = Command::new(interpreter);
            command.arg(clone_dir().join("benches/peers/tutorial_server.py")).arg(port.to_string());
            command.current_dir(clone_dir().join("proto/example"));
            Ok(command)
        };
        let process = Process::start(command).await?;
        let mut shared = Vec::new();
        for _ in 0..SHARED {
            shared.push(channel(process.port).await?);
        }
        Ok(Self { process, shared })
    }
}

#[tonic::async_trait]
impl Peer for Python {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn publish(&self, _topic: &str, _pace: Arc<Pace>) -> Outcome<()> {
        Err("the tutorial's server has no pipelined call worth measuring".into())
    }

    async fn one_by_one(&self, _topics: &[String], pace: Arc<Pace>) -> Outcome<()> {
        let channel = self.shared[pace.load.publisher as usize % SHARED].clone();
        let mut client = ExampleServiceClient::new(channel);
        let message = "x".repeat(pace.load.value_len);
        while pace.next().await.is_some() {
            client.process_request(Request { message: message.clone() }).await?;
            pace.acknowledged(1);
        }
        Ok(())
    }

    async fn read(&self, _topic: &str, _reader: Reader) -> Outcome<()> {
        Err("the tutorial's server keeps nothing".into())
    }
}
