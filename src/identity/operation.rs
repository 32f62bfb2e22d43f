//! What can be done, and which role may do it how far.

use std::fmt;
use std::str::FromStr;

use super::Role;

/// How far a role reaches with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Everything.
    All,
    /// What is of the organisation in the token.
    Organisation,
    /// What is about the enterprises in the token.
    Enterprises,
    /// The feeds in the token, and those of the department in it.
    Feeds,
    /// What the principal did itself.
    Own,
}

impl Reach {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Organisation => "organisation",
            Self::Enterprises => "enterprises",
            Self::Feeds => "feeds",
            Self::Own => "own",
        }
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// Something that can be asked of the hub. The word of each is also the `operationId` of its route.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])+ $name,)+
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

operations! {
    /// List datasets.
    CatalogList = "catalog_list",
    /// Show a contract.
    CatalogShow = "catalog_show",
    /// Show the purposes.
    PurposeList = "purpose_list",
    /// List topics.
    TopicList = "topic_list",
    /// Show a topic.
    TopicShow = "topic_show",
    /// Put a new version of the catalogue in force.
    CatalogRecord = "catalog_record",
    /// List organisations.
    OrganisationList = "organisation_list",
    /// Register an organisation.
    OrganisationAdd = "organisation_add",
    /// List agreements.
    AgreementList = "agreement_list",
    /// Add an agreement.
    AgreementAdd = "agreement_add",
    /// Register who may sign for an enterprise.
    SignatoryAdd = "signatory_add",
    /// Ask an enterprise for a consent.
    ConsentRequest = "consent_request",
    /// List consents.
    ConsentList = "consent_list",
    /// Show a consent.
    ConsentShow = "consent_show",
    /// Show the cells that a consent would open.
    ConsentPreview = "consent_preview",
    /// Get the text to sign for an operation on a consent.
    ConsentText = "consent_text",
    /// Give, refuse, pause, resume, narrow or withdraw a consent, with a signature.
    ConsentOperate = "consent_operate",
    /// Ask SQL.
    Query = "query",
    /// List what organisations keep.
    HoldingList = "holding_list",
    /// Show something that an organisation keeps.
    HoldingShow = "holding_show",
    /// State that something of a holding is deleted.
    HoldingDelete = "holding_delete",
    /// List subscriptions.
    SubscriptionList = "subscription_list",
    /// Show a subscription and how far it was brought.
    SubscriptionShow = "subscription_show",
    /// Subscribe an organisation to a topic.
    SubscriptionAdd = "subscription_add",
    /// End a subscription.
    SubscriptionEnd = "subscription_end",
    /// Fetch the next page of a subscription.
    SubscriptionPull = "subscription_pull",
    /// Deliver a subscription by Kafka while no service does.
    SubscriptionDeliver = "subscription_deliver",
    /// Look at the record of an access.
    AccessShow = "access_show",
    /// List who accessed an enterprise's data.
    EnterpriseAccesses = "enterprise_accesses",
    /// Get the signed checkpoint of the log.
    LogCheckpoint = "log_checkpoint",
    /// Get tiles of the log: hashes and leaves, which name nobody.
    LogTile = "log_tile",
    /// Prove that an entry is in the log.
    LogProof = "log_proof",
    /// Verify the whole log.
    LogVerify = "log_verify",
    /// List feeds.
    FeedList = "feed_list",
    /// Deliver a file of a feed, or say what would become of it.
    FeedRun = "feed_run",
    /// List the runs of a feed.
    RunList = "run_list",
    /// Show a run of a feed.
    RunShow = "run_show",
    /// List what is in quarantine, without its content.
    QuarantineList = "quarantine_list",
    /// Build data products.
    PipelineRun = "pipeline_run",
    /// Read the figures about the service.
    Metrics = "metrics",
}

impl Operation {
    /// Whether rows of enterprises are read for it and told. Who is refused one of these is refused an access.
    #[must_use]
    pub const fn shows_rows(self) -> bool {
        matches!(
            self,
            Self::Query | Self::SubscriptionPull | Self::ConsentPreview
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Operation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut all = Self::ALL.iter().copied();
        all.find(|operation| operation.as_str() == text).ok_or(())
    }
}

/// How far a role reaches with an operation; none: it may not. The one table of what roles may do.
#[must_use]
pub fn reach(role: Role, operation: Operation) -> Option<Reach> {
    use Operation as O;
    use Reach::{All, Enterprises, Feeds, Organisation, Own};
    use Role as R;
    match (operation, role) {
        // What there is, and the log's head, tiles and proofs, which name nobody: for whoever has a token.
        (O::CatalogList | O::CatalogShow | O::PurposeList | O::LogCheckpoint | O::LogTile, _) => {
            Some(All)
        }
        (O::TopicList | O::TopicShow, _) => Some(All),
        (O::LogProof, R::Enterprise | R::Analyst | R::Steward | R::Auditor | R::Operator) => {
            Some(All)
        }
        (O::OrganisationList, R::Enterprise | R::Steward | R::Auditor | R::Operator) => Some(All),
        (O::OrganisationList, R::Analyst | R::Subscriber) => Some(Organisation),
        (O::OrganisationAdd | O::AgreementAdd | O::SignatoryAdd, R::Steward) => Some(All),
        (O::AgreementList, R::Enterprise | R::Steward | R::Auditor) => Some(All),
        (O::AgreementList, R::Analyst | R::Subscriber) => Some(Organisation),
        (O::ConsentRequest, R::Analyst | R::Subscriber) => Some(Organisation),
        (O::ConsentList | O::ConsentShow, R::Steward | R::Auditor) => Some(All),
        (O::ConsentList | O::ConsentShow, R::Analyst | R::Subscriber) => Some(Organisation),
        (O::ConsentList | O::ConsentShow, R::Enterprise) => Some(Enterprises),
        (O::ConsentPreview | O::ConsentText | O::ConsentOperate, R::Enterprise) => {
            Some(Enterprises)
        }
        (O::Query, R::Analyst) => Some(Organisation),
        // Who received it answers for it; nobody states a deletion in another's place.
        (O::HoldingList | O::HoldingShow | O::HoldingDelete, R::Analyst) => Some(Organisation),
        (O::HoldingList | O::HoldingShow, R::Steward | R::Auditor) => Some(All),
        (O::HoldingList | O::HoldingShow, R::Enterprise) => Some(Enterprises),
        // A subscription opens nothing by itself, so organisations take theirs out themselves; ending one takes away, so
        // whoever answers for the hub may. Rows leave by pages alone, and to their receiver alone.
        (O::SubscriptionList | O::SubscriptionShow, R::Steward | R::Auditor | R::Operator) => {
            Some(All)
        }
        (O::SubscriptionAdd, R::Steward) => Some(All),
        (O::SubscriptionEnd, R::Steward | R::Operator) => Some(All),
        (
            O::SubscriptionList
            | O::SubscriptionShow
            | O::SubscriptionAdd
            | O::SubscriptionEnd
            | O::SubscriptionPull,
            R::Subscriber,
        ) => Some(Organisation),
        (O::SubscriptionDeliver, R::Operator) => Some(All),
        (O::AccessShow, R::Analyst) => Some(Own),
        (O::AccessShow, R::Auditor) => Some(All),
        (O::EnterpriseAccesses, R::Enterprise) => Some(Enterprises),
        (O::EnterpriseAccesses, R::Auditor) => Some(All),
        (O::LogVerify, R::Auditor | R::Operator) => Some(All),
        (O::CatalogRecord, R::Steward) => Some(All),
        (O::FeedList | O::RunList | O::RunShow, R::FeedOwner) => Some(Feeds),
        (O::FeedList | O::RunList | O::RunShow, R::Steward | R::Auditor | R::Operator) => Some(All),
        (O::FeedRun | O::QuarantineList, R::FeedOwner) => Some(Feeds),
        (O::FeedRun | O::QuarantineList, R::Operator) => Some(All),
        (O::PipelineRun, R::Steward | R::Operator) => Some(All),
        (O::Metrics, R::Operator) => Some(All),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole matrix, so that no right appears unseen.
    fn matrix() -> String {
        let mut text = format!("{:<22}", "");
        for role in Role::ALL {
            text += &format!("{role:<14}");
        }
        for operation in Operation::ALL {
            text = format!("{}\n{operation:<22}", text.trim_end());
            for role in Role::ALL {
                let word = reach(role, *operation).map_or("-", Reach::as_str);
                text += &format!("{word:<14}");
            }
        }
        format!("{}\n", text.trim_end())
    }

    #[test]
    fn the_matrix_is_the_golden_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/roles_and_operations.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, matrix()).unwrap();
        }
        assert_eq!(matrix(), std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn nobody_but_an_analyst_sees_rows_and_only_stewards_give_the_first_key() {
        for role in Role::ALL {
            assert_eq!(
                reach(role, Operation::SubscriptionPull),
                (role == Role::Subscriber).then_some(Reach::Organisation),
            );
            assert_eq!(
                reach(role, Operation::Query).is_some(),
                role == Role::Analyst
            );
            assert_eq!(
                reach(role, Operation::AgreementAdd).is_some(),
                role == Role::Steward
            );
        }
    }

    #[test]
    fn words_are_unambiguous() {
        for operation in Operation::ALL {
            assert_eq!(operation.as_str().parse(), Ok(*operation));
        }
    }
}
