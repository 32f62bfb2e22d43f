//! What the commands of the program are to the table of operations: in the service profile the command line asks for no
//! more than the API gives.

use qihui_catalog::{ConsentId, OrgId, PurposeCode, Uscc};
use qihui_consent::ledger::Subscription;
use qihui_pipelines::topics::error::TopicError;

use super::{About, IdentityError, Operation, Principal};
use crate::cli::{
    AgreementCommand, AuditCommand, CatalogCommand, Command, ConsentCommand, FeedCommand,
    HoldingCommand, OperationArgs, OrgCommand, PipelineCommand, SignatoryCommand,
    SubscriptionCommand, TopicCommand,
};
use crate::failure::{Failure, ProgramError};
use crate::hub::Hub;

/// Refuses a command that a principal may not do in the service profile.
///
/// # Errors
/// [`IdentityError`], or what the ledger says of the consent it is about.
pub async fn authorise(principal: &Principal, hub: &Hub, command: &Command) -> Result<(), Failure> {
    use Operation as O;
    let may = |operation| principal.may(operation).map_err(Failure::from);
    let all = |operation| {
        // Lists on the command line have no owner, so they are for those who reach everything.
        principal
            .may_on(operation, &About::default())
            .map_err(Failure::from)
    };
    match command {
        Command::Catalog(CatalogCommand::List) => may(O::CatalogList),
        Command::Catalog(CatalogCommand::Show { .. }) => may(O::CatalogShow),
        Command::Catalog(CatalogCommand::Check { .. }) => all(O::CatalogRecord),
        Command::Pipeline(PipelineCommand::List | PipelineCommand::Check { .. }) => {
            may(O::CatalogShow)
        }
        Command::Pipeline(PipelineCommand::Run(_)) => all(O::PipelineRun),
        Command::Org(OrgCommand::Add { .. }) => all(O::OrganisationAdd),
        Command::Org(OrgCommand::List) => all(O::OrganisationList),
        Command::Agreement(AgreementCommand::Add { .. }) => all(O::AgreementAdd),
        Command::Agreement(AgreementCommand::List) => all(O::AgreementList),
        Command::Signatory(SignatoryCommand::Add { .. }) => all(O::SignatoryAdd),
        Command::Feed(command) => feed(principal, hub, command),
        Command::Consent(command) => consent(principal, hub, command).await,
        Command::Query(args) => query(principal, &args.org, &args.purpose),
        Command::Holding(command) => holding(principal, hub, command).await,
        Command::Audit(AuditCommand::Checkpoint) => may(O::LogCheckpoint),
        Command::Audit(AuditCommand::Verify { .. }) => all(O::LogVerify),
        Command::Audit(AuditCommand::Proof { .. }) => may(O::LogProof),
        Command::Audit(AuditCommand::Accesses { uscc }) => {
            let about = About {
                uscc: Some(qihui_catalog::Uscc::normalise(uscc)?),
                ..About::default()
            };
            Ok(principal.may_on(O::EnterpriseAccesses, &about)?)
        }
        Command::Topic(TopicCommand::List) => may(O::TopicList),
        Command::Topic(TopicCommand::Add { .. }) => all(O::CatalogRecord),
        Command::Subscription(command) => subscription(principal, hub, command).await,
        Command::Token(_) => Err(IdentityError::NoLocalIssuer.into()),
        Command::Init(_)
        | Command::Synth(_)
        | Command::Keygen(_)
        | Command::Demo(_)
        | Command::Serve(_) => Ok(()),
    }
}

async fn subscription(
    principal: &Principal,
    hub: &Hub,
    command: &SubscriptionCommand,
) -> Result<(), Failure> {
    use Operation as O;
    let (operation, id) = match command {
        // What is out of reach is left out of the list: see `commands::subscription`.
        SubscriptionCommand::List => return Ok(principal.may(O::SubscriptionList)?),
        SubscriptionCommand::Add(args) => {
            return Ok(subscribe(principal, &args.org, &args.purpose)?);
        }
        SubscriptionCommand::Deliver(args) => {
            let operation = O::SubscriptionDeliver;
            principal.may_on(operation, &About::default())?;
            // Where events go is the configuration's to say, which is in the log.
            return match args.brokers {
                Some(_) => Err(IdentityError::OutOfReach { operation }.into()),
                None => Ok(()),
            };
        }
        SubscriptionCommand::Show { id } => (O::SubscriptionShow, id),
        SubscriptionCommand::End { id } => (O::SubscriptionEnd, id),
        SubscriptionCommand::Pull(args) => (O::SubscriptionPull, &args.id),
    };
    on_subscription(principal, hub, (operation, id)).await?;
    Ok(())
}

/// Refuses a subscription for an organisation that is out of reach. A subscriber subscribes for purposes in its token.
///
/// # Errors
/// [`IdentityError`].
pub fn subscribe(
    principal: &Principal,
    org: &OrgId,
    purpose: &PurposeCode,
) -> Result<(), IdentityError> {
    on_purpose(principal, (Operation::SubscriptionAdd, org, purpose))
}

/// Refuses what is about another organisation; and, where only one's own is in reach, about a purpose that is not in the
/// token.
fn on_purpose(
    principal: &Principal,
    (operation, org, purpose): (Operation, &OrgId, &PurposeCode),
) -> Result<(), IdentityError> {
    let about = About {
        org: Some(org),
        ..About::default()
    };
    principal.may_on(operation, &about)?;
    let everything = principal.may_on(operation, &About::default()).is_ok();
    if everything || principal.purposes.contains(purpose) {
        return Ok(());
    }
    Err(IdentityError::OutOfReach { operation })
}

/// Refuses an operation on a subscription that is out of reach; gives the subscription. One that does not exist is out
/// of everybody's reach who does not reach all.
///
/// # Errors
/// [`IdentityError`], or what the ledger says.
pub async fn on_subscription(
    principal: &Principal,
    hub: &Hub,
    (operation, id): (Operation, &str),
) -> Result<Subscription, Failure> {
    principal.may(operation)?;
    let all = hub.ledger().subscriptions().await?;
    let found = all.into_iter().find(|one| one.subscription_id == id);
    let Some(found) = found else {
        principal.may_on(operation, &About::default())?;
        let id = id.chars().take(64).collect();
        return Err(TopicError::UnknownSubscription { id }.into());
    };
    reaches(principal, operation, &found)?;
    Ok(found)
}

/// Refuses an operation on a subscription that is out of reach.
///
/// # Errors
/// [`IdentityError`].
pub fn reaches(
    principal: &Principal,
    operation: Operation,
    subscription: &Subscription,
) -> Result<(), IdentityError> {
    let Subscription { org, purpose, .. } = subscription;
    on_purpose(principal, (operation, org, purpose))
}

/// Refuses a query for an organisation or a purpose that is not in the token.
///
/// # Errors
/// [`IdentityError`].
pub fn query(
    principal: &Principal,
    org: &qihui_catalog::OrgId,
    purpose: &qihui_catalog::PurposeCode,
) -> Result<(), Failure> {
    let operation = Operation::Query;
    let about = About {
        org: Some(org),
        ..About::default()
    };
    principal.may_on(operation, &about)?;
    if !principal.purposes.contains(purpose) {
        return Err(IdentityError::OutOfReach { operation }.into());
    }
    Ok(())
}

/// Refuses an operation on a consent that is out of reach. A consent that does not exist is out of everybody's reach.
///
/// # Errors
/// [`IdentityError`], or what the ledger says.
pub async fn on_consent(
    principal: &Principal,
    hub: &Hub,
    (operation, id): (Operation, &ConsentId),
) -> Result<(), Failure> {
    principal.may(operation)?;
    let document = match hub.ledger().consent(id).await {
        Ok(consent) => consent.document,
        Err(error) if principal.may_on(operation, &About::default()).is_ok() => {
            return Err(error.into());
        }
        Err(qihui_consent::LedgerError::UnknownConsent(_)) => {
            return Err(IdentityError::OutOfReach { operation }.into());
        }
        Err(error) => return Err(error.into()),
    };
    let about = About {
        org: Some(&document.consumer.org),
        uscc: Some(document.principal),
        ..About::default()
    };
    Ok(principal.may_on(operation, &about)?)
}

async fn holding(
    principal: &Principal,
    hub: &Hub,
    command: &HoldingCommand,
) -> Result<(), Failure> {
    use Operation as O;
    let (operation, id) = match command {
        HoldingCommand::List { subject, org, .. } => {
            let uscc = subject.as_deref().map(Uscc::normalise).transpose()?;
            let about = About {
                org: org.as_ref(),
                uscc,
                ..About::default()
            };
            return Ok(principal.may_on(O::HoldingList, &about)?);
        }
        HoldingCommand::Show { id } => (O::HoldingShow, id),
        HoldingCommand::Delete { id, .. } => (O::HoldingDelete, id),
    };
    on_holding(principal, hub, (operation, id)).await?;
    Ok(())
}

/// As what somebody reaches a holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// As its holder, or as one who answers for the hub: all of it.
    Whole,
    /// As an enterprise whose data is in it: its own part.
    PartOf(Uscc),
}

/// Refuses an operation on a holding that is out of reach; says as what it is reached. One that does not exist is out of
/// everybody's reach who does not reach all.
///
/// # Errors
/// [`IdentityError`], or what the ledger says.
pub async fn on_holding(
    principal: &Principal,
    hub: &Hub,
    (operation, id): (Operation, &str),
) -> Result<Reached, Failure> {
    principal.may(operation)?;
    let out_of_reach = || IdentityError::OutOfReach { operation };
    let holding = match hub.ledger().holding(id).await {
        Ok(holding) => holding,
        Err(error) if principal.may_on(operation, &About::default()).is_ok() => {
            return Err(error.into());
        }
        Err(qihui_consent::LedgerError::UnknownHolding(_)) => return Err(out_of_reach().into()),
        Err(error) => return Err(error.into()),
    };
    let about = About {
        org: Some(&holding.document.org),
        ..About::default()
    };
    if principal.may_on(operation, &about).is_ok() {
        return Ok(Reached::Whole);
    }
    for uscc in &principal.usccs {
        let about = About {
            uscc: Some(*uscc),
            ..About::default()
        };
        let Some(no) = hub.number_of(*uscc)? else {
            continue;
        };
        if principal.may_on(operation, &about).is_ok() && hub.ledger().is_held(id, no).await? {
            return Ok(Reached::PartOf(*uscc));
        }
    }
    Err(out_of_reach().into())
}

/// Refuses an operation on a feed that is out of reach.
///
/// # Errors
/// There is no such feed, or [`IdentityError`].
pub fn on_feed(
    principal: &Principal,
    hub: &Hub,
    (operation, name): (Operation, &qihui_catalog::FeedName),
) -> Result<(), Failure> {
    principal.may(operation)?;
    let catalog = hub.catalog()?;
    let unknown = || ProgramError::UnknownFeed(name.to_string());
    let spec = catalog.feeds.get(name).ok_or_else(unknown)?;
    let owner = catalog.contract(&spec.dataset);
    let about = About {
        feed: Some(name),
        owner: owner.map(|contract| contract.owner.as_str()),
        ..About::default()
    };
    Ok(principal.may_on(operation, &about)?)
}

fn feed(principal: &Principal, hub: &Hub, command: &FeedCommand) -> Result<(), Failure> {
    use Operation as O;
    match command {
        FeedCommand::List => Ok(principal.may(O::FeedList)?),
        FeedCommand::Check { feed, .. } => on_feed(principal, hub, (O::FeedRun, feed)),
        FeedCommand::Run(args) => match &args.name {
            Some(feed) => on_feed(principal, hub, (O::FeedRun, feed)),
            None => Ok(principal.may_on(O::FeedRun, &About::default())?),
        },
        FeedCommand::Quarantine { name, .. } => on_feed(principal, hub, (O::QuarantineList, name)),
    }
}

async fn consent(
    principal: &Principal,
    hub: &Hub,
    command: &ConsentCommand,
) -> Result<(), Failure> {
    use Operation as O;
    let signed = |args: &OperationArgs| {
        // Without a signature only the holder of the hub could act, and here nobody is.
        let operation = O::ConsentOperate;
        match args.signatory {
            Some(_) => Ok((operation, args.id.clone())),
            None => Err(IdentityError::NotAllowed { operation }),
        }
    };
    let (operation, id) = match command {
        // Whom it is asked for is looked at when the file was read: see `commands::consent`.
        ConsentCommand::Request { .. } => return Ok(principal.may(O::ConsentRequest)?),
        ConsentCommand::List { subject, org } => {
            let about = About {
                org: org.as_ref(),
                uscc: subject
                    .as_deref()
                    .map(qihui_catalog::Uscc::normalise)
                    .transpose()?,
                ..About::default()
            };
            return Ok(principal.may_on(O::ConsentList, &about)?);
        }
        ConsentCommand::Preview { id } => (O::ConsentPreview, id.clone()),
        ConsentCommand::Show { id } => (O::ConsentShow, id.clone()),
        ConsentCommand::Sign { id, .. } => (O::ConsentOperate, id.clone()),
        ConsentCommand::Pause(args)
        | ConsentCommand::Resume(args)
        | ConsentCommand::Withdraw(args)
        | ConsentCommand::Narrow {
            operation: args, ..
        } => signed(args)?,
    };
    on_consent(principal, hub, (operation, &id)).await
}
