//! From the body of a request to the call that it makes, and its answer.

use futures_util::future::LocalBoxFuture;

use super::answer::Answer;
use super::asking::{Asking, Kind, Told};
use super::call::{self, Call, Published};
use super::channel_call::ChannelCall;
use super::error::ApiError;
use super::fields::{RequestId, object_of};
use super::history::HistoryCall;
use super::params::Params;
use super::state::Api;
use super::trace::Parent;
use super::{batch, command, publish};
use crate::cluster::Behind;

/// What parameters are called in error messages.
const BODY: &str = "the body";

impl Api {
    /// Carries out a call of the mesh. `parent`: what its request says of its trace; None: it is not traced.
    pub(super) async fn call(&self, call: Call, body: &[u8], parent: Option<Box<Parent>>) -> Answer {
        if !self.mesh.is_serving() {
            return Answer::failure(&ApiError::Joining, None);
        }
        // All but plain publishes and sends is rare, and boxed: so a connection does not reserve memory for it.
        let object = match call {
            // An empty array of publishes is reported as such.
            Call::Publish => body,
            Call::Send => object_of(body),
            Call::Count => return self.channel_call(ChannelCall::count(object_of(body), BODY)).await,
            Call::Close => return self.channel_call(ChannelCall::close(object_of(body), BODY)).await,
            Call::Presence => return self.presence(body).await,
            Call::History => return self.history(body).await,
            Call::Conn => return self.command(body).await,
        };
        let params = match Params::parse(object, BODY) {
            Ok(params) => params,
            Err(_) if call == Call::Publish && batch::is_array(body) => return batch::answer(self, body, parent).await,
            Err(error) => return Answer::failure(&error, None),
        };
        let request_id = params.request_id();
        // What is awaited from here on is not in functions of its own: the future of each would be moved once more.
        if call == Call::Send {
            let send = params.send();
            drop(params);
            let sent = match send {
                Ok((Ok(client), message)) => call::sent(client, self.mesh.send(client, message).await.await),
                Ok((Err(number), _)) => Err(call::not_sent(number)),
                Err(error) => Err(error),
            };
            return Answer::to_call(sent, request_id);
        }
        if !params.is_plain() || parent.is_some() {
            let publish = params.publish();
            drop(params);
            return Answer::to_call(publish::publish(self, publish, parent).await, request_id);
        }
        let publication = params.publication();
        drop(params);
        let published = match publication {
            Ok(publication) => {
                self.counts.published.add(1);
                Ok(Published::from(self.mesh.publish(publication, Behind::default()).await.await))
            }
            Err(error) => Err(error),
        };
        Answer::to_call(published, request_id)
    }

    #[inline(never)]
    fn presence(&self, body: &[u8]) -> LocalBoxFuture<'_, Answer> {
        let (asking, request_id) = Asking::read(Kind::Presence, object_of(body), BODY, &self.config.load());
        Box::pin(async move { Answer::to_call(self.ask(asking, Kind::Presence).await, request_id) })
    }

    #[inline(never)]
    fn history(&self, body: &[u8]) -> LocalBoxFuture<'_, Answer> {
        let (call, request_id) = HistoryCall::read(object_of(body), BODY);
        Box::pin(async move {
            let outcome = match call {
                Ok(call) => call.begin(&self.mesh).await,
                Err(error) => Err(error),
            };
            Answer::to_call(outcome, request_id)
        })
    }

    #[inline(never)]
    fn command(&self, body: &[u8]) -> LocalBoxFuture<'_, Answer> {
        let (command, request_id) = command::parse(object_of(body), BODY);
        Box::pin(async move {
            let outcome = match command {
                Ok(command) => call::command(&self.mesh, command).await,
                Err(error) => Err(error),
            };
            Answer::to_call(outcome, request_id)
        })
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

    #[inline(never)]
    fn channel_call(
        &self,
        (call, request_id): (Result<ChannelCall, ApiError>, Option<RequestId>),
    ) -> LocalBoxFuture<'_, Answer> {
        Box::pin(async move {
            let outcome = match call {
                Ok(call) => call.begin(&self.mesh, Behind::default()).await.outcome().await,
                Err(error) => Err(error),
            };
            Answer::to_call(outcome, request_id)
        })
    }
}
