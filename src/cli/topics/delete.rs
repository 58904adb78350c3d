//! `streamway topics delete`: topics by name, or all with a prefix.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::each::for_each;
use crate::cli::confirm::confirm;
use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::Client;
use crate::proto::v1;

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
        // Of those with a prefix only the incarnations are deleted that were found.
        let epochs: BTreeMap<String, String> = match &self.prefix {
            None => self.topics.iter().map(|name| (name.clone(), self.epoch.clone())).collect(),
            Some(prefix) => {
                let found = self.found(client, prefix).await?;
                found.into_iter().map(|topic| (topic.name, topic.epoch)).collect()
            }
        };
        let topics = if self.prefix.is_some() { epochs.keys().cloned().collect() } else { self.topics };
        let service = client.topics();
        let delete = async |topic: &str| {
            service.delete(topic, &epochs[topic]).await?;
            if self.format.is_json() {
                output::print(&output::json_line(&json!({ "name": topic })))?;
            } else {
                output::complain(&format!("deleted {topic}"));
            }
            Ok(())
        };
        for_each(&topics, self.format, delete).await
    }

    /// The topics with the prefix, once the user has agreed to delete them.
    async fn found(&self, client: &Client, prefix: &str) -> Result<Vec<v1::Topic>, Failure> {
        let service = client.topics();
        let (mut pages, mut topics) = (service.pages(prefix.to_owned()), Vec::new());
        while let Some(page) = pages.next().await? {
            // A server that knows no prefixes must not cost topics with other names.
            topics.extend(page.into_iter().filter(|topic| topic.name.starts_with(prefix)));
        }
        if topics.is_empty() {
            output::complain(&format!("no topic begins with {prefix}"));
        } else if !self.yes {
            let more = if topics.len() > NAMED_MAX { ", …" } else { "" };
            let named: Vec<_> = topics.iter().take(NAMED_MAX).map(|topic| topic.name.as_str()).collect();
            let named = named.join(", ");
            let (count, plural) = (topics.len(), if topics.len() == 1 { "" } else { "s" });
            confirm(&format!("Delete {count} topic{plural} with all records ({named}{more})?"))?;
        }
        Ok(topics)
    }
}
