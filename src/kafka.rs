//! `[kafka]`: where the cluster is, and as whom the hub goes there.
//!
//! Feeds say which topic they read, subscriptions which they write; this says where. Secrets are never part of the configuration, which is recorded in
//! the log: they lie in files of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use qihui_ingest::KafkaSettings;
use qihui_pipelines::topics::kafka::KafkaSettings as DeliverySettings;
use serde::{Deserialize, Serialize};

use crate::failure::ProgramError;
use crate::files;

/// `[kafka]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Where to find brokers: `host:port`, separated by commas; empty: there are none.
    pub brokers: String,
    /// What the names of consumer groups begin with.
    pub group: String,
    /// The largest message that is received.
    pub message_bytes: usize,
    /// How much is fetched ahead.
    pub queued_bytes: usize,
    /// How long a run that is to end waits for brokers.
    pub wait_seconds: u64,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_protocol: Option<String>,
    /// `PLAIN`, `SCRAM-SHA-256` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_mechanism: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_username: Option<String>,
    /// The file with the user's password, and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_password_file: Option<PathBuf>,
    /// The certificates of authorities that brokers' certificates may come from, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The hub's own certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            group: "qihui".to_owned(),
            message_bytes: KafkaSettings::MESSAGE_BYTES,
            queued_bytes: KafkaSettings::QUEUED_BYTES,
            wait_seconds: KafkaSettings::WAIT_SECONDS,
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

impl Kafka {
    /// What ingestion needs to know; `hub` names this hub among all.
    ///
    /// # Errors
    /// [`ProgramError::FileUnreadable`]: the password cannot be read.
    pub fn settings(&self, hub: &str) -> Result<KafkaSettings, ProgramError> {
        Ok(KafkaSettings {
            brokers: self.brokers.clone(),
            group: self.group.clone(),
            member: format!("qihui-{hub}"),
            security: self.security()?,
            message_bytes: self.message_bytes,
            queued_bytes: self.queued_bytes,
            wait_seconds: self.wait_seconds,
        })
    }

    /// The settings as deliveries of topics take them.
    ///
    /// # Errors
    /// [`ProgramError::FileUnreadable`]: the password cannot be read.
    pub fn delivery(&self) -> Result<DeliverySettings, ProgramError> {
        Ok(DeliverySettings {
            client: self.security()?,
            ..DeliverySettings::new(&self.brokers)
        })
    }

    /// How connections are secured, in the client library's words.
    ///
    /// # Errors
    /// [`ProgramError::FileUnreadable`]: the password cannot be read.
    pub fn security(&self) -> Result<BTreeMap<String, String>, ProgramError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let password = self.sasl_password_file.as_deref().map(|file| {
            let text = files::read_document("Kafka password", file)?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        });
        let words = [
            ("security.protocol", self.security_protocol.clone()),
            ("sasl.mechanism", self.sasl_mechanism.clone()),
            ("sasl.username", self.sasl_username.clone()),
            ("sasl.password", password.transpose()?),
            ("ssl.ca.location", path(&self.ca_file)),
            ("ssl.certificate.location", path(&self.certificate_file)),
            ("ssl.key.location", path(&self.key_file)),
        ];
        let words = words
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(words.collect())
    }
}

/// What the configuration file of a new hub says about it.
#[must_use]
pub(crate) fn template() -> String {
    let Kafka {
        brokers: _,
        group,
        message_bytes,
        queued_bytes,
        wait_seconds,
        ..
    } = Kafka::default();
    format!(
        "[kafka]
# Where to find brokers, for feeds that read a topic and subscriptions that are delivered by Kafka: host:port, separated by
# commas.
# brokers = \"\"
# What the names of consumer groups begin with; the feed's name follows.
# group = \"{group}\"
# The largest message that is received, and how much is fetched ahead.
# message_bytes = {message_bytes}
# queued_bytes = {queued_bytes}
# How long a run that is to end waits for brokers.
# wait_seconds = {wait_seconds}
# How connections are secured. Secrets lie in files of their own.
# security_protocol = \"sasl_ssl\"
# sasl_mechanism = \"SCRAM-SHA-512\"
# sasl_username = \"qihui\"
# sasl_password_file = \"/etc/qihui/kafka-password\"
# ca_file = \"/etc/qihui/kafka-ca.pem\"
# certificate_file = \"/etc/qihui/kafka.pem\"
# key_file = \"/etc/qihui/kafka.key\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_its_file_and_stays_out_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        let kafka = Kafka {
            sasl_username: Some("hub".to_owned()),
            sasl_password_file: Some(file.clone()),
            ..Kafka::default()
        };
        let security = kafka.security().unwrap();
        assert_eq!(security["sasl.password"], "s3cret");
        assert_eq!(security["sasl.username"], "hub");
        assert!(!security.contains_key("security.protocol"));
        let recorded = serde_json::to_string(&kafka).unwrap();
        assert!(!recorded.contains("s3cret"));
        std::fs::remove_file(&file).unwrap();
        assert!(kafka.settings("x").is_err());
    }
}
