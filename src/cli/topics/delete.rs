//! `streamway topics delete`: topics by name, or all with a prefix.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::each::for_each;
use crate::cli::confirm::confirm;
use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::Client;

/// Number of topics that the question names.
const NAMED_MAX: usize = 5;

/// Delete topics with all their records.
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  streamway topics delete orders payments
  streamway topics delete --prefix test- --yes"
)]
pub(super) struct Delete {
    /// Names of the topics.
    #[arg(required_unless_present = "prefix", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Delete all topics whose name begins with this, after a question.
    #[arg(
        long,
        value_name = "PREFIX",
        conflicts_with_all = ["topics", "epoch"],
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    prefix: Option<String>,
    /// Delete the topics of --prefix without a question.
    #[arg(short, long)]
    yes: bool,
    /// Fail unless the topic has this epoch, which changes when it is created again.
    #[arg(long, default_value = "", hide_default_value = true)]
    epoch: String,
    #[command(flatten)]
    format: Format,
}

impl Delete {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let topics = match &self.prefix {
            None => self.topics.clone(),
            Some(prefix) => self.found(client, prefix).await?,
        };
        let service = client.topics();
        let delete = async |topic: &str| {
            service.delete(topic, &self.epoch).await?;
            if self.format.is_json() {
                output::print(&output::json_line(&json!({ "name": topic })))?;
            } else {
                output::complain(&format!("deleted {topic}"));
            }
            Ok(())
        };
        for_each(&topics, delete).await
    }

    /// The topics with the prefix, once the user has agreed to delete them.
    async fn found(&self, client: &Client, prefix: &str) -> Result<Vec<String>, Failure> {
        let service = client.topics();
        let (mut pages, mut topics) = (service.pages(prefix.to_owned()), Vec::new());
        while let Some(page) = pages.next().await? {
            // A server that knows no prefixes must not cost topics with other names.
            topics.extend(page.into_iter().map(|topic| topic.name).filter(|name| name.starts_with(prefix)));
        }
        if topics.is_empty() {
            output::complain(&format!("no topic begins with {prefix}"));
        } else if !self.yes {
            let more = if topics.len() > NAMED_MAX { ", …" } else { "" };
            let named = topics[..topics.len().min(NAMED_MAX)].join(", ");
            let (count, plural) = (topics.len(), if topics.len() == 1 { "" } else { "s" });
            confirm(&format!("Delete {count} topic{plural} with all records ({named}{more})?"))?;
        }
        Ok(topics)
    }
}
