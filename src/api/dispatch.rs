//! From the body of a request to the call that it makes, and its answer.

use super::answer::Answer;
use super::asking::{Asking, Kind, Told};
use super::call::{self, Call};
use super::channel_call::ChannelCall;
use super::error::ApiError;
use super::fields::{RequestId, object_of};
use super::history::HistoryCall;
use super::params::Params;
use super::state::Api;
use super::{batch, command, publish};
use crate::cluster::Behind;

/// What parameters are called in error messages.
const BODY: &str = "the body";

impl Api {
    /// Carries out a call of the mesh.
    pub(super) async fn call(&self, call: Call, body: &[u8]) -> Answer {
        if !self.mesh.is_serving() {
            return Answer::failure(&ApiError::Joining, None);
        }
        // Everything rarer than a plain publish is boxed, so that a connection does not reserve memory for it.
        match call {
            Call::Publish | Call::Send => {}
            Call::Count => return Box::pin(self.channel_call(ChannelCall::count(object_of(body), BODY))).await,
            Call::Close => return Box::pin(self.channel_call(ChannelCall::close(object_of(body), BODY))).await,
            Call::Presence => {
                let (asking, request_id) = Asking::read(Kind::Presence, object_of(body), BODY, &self.config.load());
                return Answer::to_call(Box::pin(self.ask(asking, Kind::Presence)).await, request_id);
            }
            Call::History => {
                let (call, request_id) = HistoryCall::read(object_of(body), BODY);
                let outcome = match call {
                    Ok(call) => Box::pin(call.begin(&self.mesh)).await,
                    Err(error) => Err(error),
                };
                return Answer::to_call(outcome, request_id);
            }
            Call::Conn => {
                let (command, request_id) = command::parse(object_of(body), BODY);
                let outcome = match command {
                    Ok(command) => Box::pin(call::command(&self.mesh, command)).await,
                    Err(error) => Err(error),
                };
                return Answer::to_call(outcome, request_id);
            }
        }
        // An empty array of publishes is reported as such.
        let object = if call == Call::Publish { body } else { object_of(body) };
        let params = match Params::parse(object, BODY) {
            Ok(params) => params,
            Err(_) if call == Call::Publish && batch::is_array(body) => {
                return Box::pin(batch::answer(self, body)).await;
            }
            Err(error) => return Answer::failure(&error, None),
        };
        match call {
            Call::Publish if params.is_plain() => {
                Answer::to_call(call::publish(&self.mesh, &self.counts.published, &params).await, params.request_id())
            }
            Call::Publish => Answer::to_call(Box::pin(publish::publish(self, &params)).await, params.request_id()),
            _ => Answer::to_call(call::send(&self.mesh, &params).await, params.request_id()),
        }
    }

    /// Answers a request for channels, by its query.
    pub(super) async fn channels(&self, query: &str) -> Result<Answer, ApiError> {
        let asking = Asking::channels(query, &self.config.load());
        Ok(Answer::to_call(self.ask(asking, Kind::Channels).await, None))
    }

    /// Answers a request for a client, by the text of its id.
    pub(super) async fn client(&self, id: &str) -> Result<Answer, ApiError> {
        Ok(Answer::to_call(self.ask(Asking::client_of(id), Kind::Client).await, None))
    }

    async fn ask(&self, asking: Result<Asking, ApiError>, kind: Kind) -> Result<Told, ApiError> {
        if !self.mesh.is_serving() {
            return Err(ApiError::Joining);
        }
        asking?.begin(&self.mesh, Behind::default()).await.outcome(kind).await
    }

    async fn channel_call(&self, (call, request_id): (Result<ChannelCall, ApiError>, Option<RequestId>)) -> Answer {
        let outcome = match call {
            Ok(call) => call.begin(&self.mesh, Behind::default()).await.outcome().await,
            Err(error) => Err(error),
        };
        Answer::to_call(outcome, request_id)
    }
}
