//! Calls: a question to any node, or to a certain one.

use super::{Pool, Session};
use crate::error::Error;
use crate::transport::{RequestError, request};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use piculet_quorum::ids::{LogId, LogName, NodeId};
use piculet_quorum::wire::message::{Refusal, Request, Response};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// A question that has no answer after this long is put to another node too.
const HEDGE: Duration = Duration::from_millis(300);
/// Pause after every node has failed.
const ROUND: Duration = Duration::from_millis(100);

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No node answered in time, or none could be reached. Nothing was changed.
    #[error("{0}")]
    NoNode(String),
    /// A proposal was sent and no node said what became of it: it may have been carried out, or
    /// may yet be.
    #[error("{0}")]
    Unknown(String),
    /// The node refuses.
    #[error(transparent)]
    Refused(Refusal),
    /// The log is not in the metadata any more: it has been deleted.
    #[error("log {0} has been deleted")]
    Gone(LogId),
    /// The call cannot succeed.
    #[error(transparent)]
    Failed(Error),
}

impl CallError {
    /// The same for a caller that knows the log's name.
    pub(crate) fn of(self, log: &LogName) -> Error {
        match self {
            Self::Gone(_) | Self::Refused(Refusal::Deleted) => Error::NotFound(log.clone()),
            other => other.into(),
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoNode(why) => Self::NoNode(why),
            CallError::Unknown(why) => Self::Unknown(why),
            CallError::Refused(refusal) => Self::Refused(refusal.to_string()),
            CallError::Gone(_) => Self::Refused(error.to_string()),
            CallError::Failed(error) => error,
        }
    }
}

/// Whom to ask.
enum Candidate {
    Live(Arc<Session>),
    Known(NodeId, Vec<String>),
    Anybody,
}

impl Pool {
    /// Asks any node, and others when it does not answer soon, within the call time-out. A
    /// proposal is sent once.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(crate) async fn call(&self, request: &Request) -> Result<Response, CallError> {
        let deadline = Instant::now() + self.shared.call_timeout;
        let response = match request {
            Request::Propose(_) => self.call_once(request, deadline).await?,
            _ => self.call_hedged(request, deadline).await?,
        };
        if let Response::Nodes(nodes) = &response {
            self.learn_nodes(nodes);
        }
        Ok(response)
    }

    /// Asks a certain node, for at most the call time-out.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub(crate) async fn call_node(&self, node: &NodeId, request: &Request) -> Result<Response, CallError> {
        let no_node = |error: Error| CallError::NoNode(format!("node {node}: {}", error.reason()));
        let session = self.session_by_name(node).await.map_err(no_node)?;
        ask(&session, request, self.shared.call_timeout).await
    }

    async fn call_hedged(&self, request: &Request, deadline: Instant) -> Result<Response, CallError> {
        let mut failures = Failures::default();
        while Instant::now() < deadline {
            let mut waiting = self.candidates();
            let mut asked = FuturesUnordered::new();
            loop {
                if let Some(candidate) = waiting.pop_front() {
                    asked.push(self.ask_candidate(candidate, request, deadline));
                }
                if asked.is_empty() {
                    break;
                }
                let next = if waiting.is_empty() { deadline } else { deadline.min(Instant::now() + HEDGE) };
                tokio::select! {
                    Some((node, answer)) = asked.next() => match answer {
                        Ok(response) => {
                            self.state().preferred = node;
                            return Ok(response);
                        }
                        Err(error) => failures.add(error)?,
                    },
                    () = sleep_until(next) => {
                        if next == deadline {
                            return Err(failures.none(self.shared.call_timeout));
                        }
                    }
                }
            }
            sleep(ROUND.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
        Err(failures.none(self.shared.call_timeout))
    }

    async fn call_once(&self, request: &Request, deadline: Instant) -> Result<Response, CallError> {
        let mut failures = Failures::default();
        while Instant::now() < deadline {
            for candidate in self.candidates() {
                if Instant::now() >= deadline {
                    break;
                }
                let (node, answer) = self.ask_candidate(candidate, request, deadline).await;
                match answer {
                    Ok(response) => {
                        self.state().preferred = node;
                        return Ok(response);
                    }
                    Err(error) => {
                        let mut state = self.state();
                        if node.is_some() && state.preferred == node {
                            state.preferred = None;
                        }
                        drop(state);
                        failures.add(error)?;
                    }
                }
            }
            sleep(ROUND.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
        Err(failures.none(self.shared.call_timeout))
    }

    fn candidates(&self) -> VecDeque<Candidate> {
        let state = self.state();
        let live = state.all_live();
        let anybody = live.is_empty().then_some(Candidate::Anybody);
        let others = state.nodes.iter().filter_map(|(node, view)| {
            let running = view.running.as_ref().filter(|_| state.live(node).is_none())?;
            Some(Candidate::Known(node.clone(), running.addresses.clone()))
        });
        live.into_iter().map(Candidate::Live).chain(anybody).chain(others).collect()
    }

    async fn ask_candidate(
        &self,
        candidate: Candidate,
        request: &Request,
        deadline: Instant,
    ) -> (Option<NodeId>, Result<Response, CallError>) {
        let session = match candidate {
            Candidate::Live(session) => Ok(session),
            Candidate::Known(node, addresses) => self.attempt(&node, addresses).await,
            Candidate::Anybody => self.attempt_any().await,
        };
        match session {
            Ok(session) => {
                let limit = deadline.saturating_duration_since(Instant::now());
                (Some(session.node.clone()), ask(&session, request, limit).await)
            }
            Err(error) => (None, Err(CallError::NoNode(error.reason()))),
        }
    }
}

/// Puts a question to one node. What may not have reached it is no failure of the question.
async fn ask(session: &Session, question: &Request, limit: Duration) -> Result<Response, CallError> {
    let proposes = matches!(question, Request::Propose(_));
    let node = &session.node;
    match request(&session.connection, question, limit).await {
        Ok(Response::Refused(Refusal::Unavailable(why))) => {
            Err(CallError::NoNode(format!("node {node}: not now: {why}")))
        }
        Ok(Response::Refused(Refusal::Unknown(why))) if proposes => {
            Err(CallError::Unknown(format!("node {node}: {why}")))
        }
        Ok(Response::Refused(refusal)) => Err(CallError::Refused(refusal)),
        Ok(response) => Ok(response),
        Err(RequestError::Message(error)) => Err(CallError::Failed(Error::Refused(error.to_string()))),
        Err(error) if proposes => Err(CallError::Unknown(format!("node {node}: {error}"))),
        Err(error) => Err(CallError::NoNode(format!("node {node}: {error}"))),
    }
}

/// Failures of one call that other nodes may make good.
#[derive(Default)]
struct Failures(Option<String>);

impl Failures {
    fn add(&mut self, error: CallError) -> Result<(), CallError> {
        match error {
            CallError::NoNode(why) => {
                self.0 = Some(why);
                Ok(())
            }
            other => Err(other),
        }
    }

    fn none(self, waited: Duration) -> CallError {
        CallError::NoNode(self.0.unwrap_or_else(|| format!("nobody answered within {waited:?}")))
    }
}
