//! The values of labels that code counts under: closed lists, each value spelt once. `docs/metrics.md` names them all.

use super::counter::Counter;

/// The values of one label.
pub trait Label: Copy + Eq + std::fmt::Debug + 'static {
    /// All of them, in the order of the page.
    const ALL: &'static [Self];
    /// A count for each of them.
    type Counts: Default + std::fmt::Debug + AsRef<[Counter]>;

    /// The word on the page.
    fn word(self) -> &'static str;

    /// Its position in [`Label::ALL`].
    fn position(self) -> usize;

    /// The value with that word.
    fn find(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|label| label.word() == word)
    }
}

/// One number for each value of a label.
#[derive(Debug)]
pub struct Labelled<L: Label>(L::Counts);

impl<L: Label> Default for Labelled<L> {
    fn default() -> Labelled<L> {
        Labelled(L::Counts::default())
    }
}

impl<L: Label> Labelled<L> {
    /// Counts one under that label.
    pub fn one(&self, label: L) {
        self.add(label, 1);
    }

    /// Counts so many under that label.
    pub fn add(&self, label: L, many: u64) {
        if let Some(count) = self.0.as_ref().get(label.position()) {
            count.add(many);
        }
    }

    /// The number under one label.
    pub fn get(&self, label: L) -> u64 {
        self.0.as_ref().get(label.position()).map_or(0, Counter::get)
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.0.as_ref().iter().map(Counter::get).sum()
    }
}

macro_rules! labels {
    ($(
        $(#[doc = $doc:literal])+
        pub enum $Name:ident { $( $(#[doc = $value_doc:literal])+ $Value:ident = $word:literal, )+ }
    )+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Name { $( $(#[doc = $value_doc])+ $Value, )+ }

        impl Label for $Name {
            const ALL: &'static [Self] = &[$( $Name::$Value, )+];
            type Counts = [Counter; [$( $word, )+].len()];

            fn word(self) -> &'static str {
                match self { $( $Name::$Value => $word, )+ }
            }

            fn position(self) -> usize {
                self as usize
            }
        }
    )+};
}

labels! {
    /// Why a client did not get a message.
    pub enum DropCause {
        /// More waited for it than it may.
        TooSlow = "too_slow",
        /// Its connection ends.
        Closing = "closing",
        /// The script could not encode the message.
        Encode = "encode",
        /// There is no such client.
        NoClient = "no_client",
        /// The client did not keep up, and the rule of the channel lets newer messages have the room.
        Oldest = "oldest",
        /// The client did not keep up, and a newer message with the same key took its place.
        Latest = "latest",
    }

    /// Why a connection ended.
    pub enum EndReason {
        /// The client closed it.
        Peer = "peer",
        /// A script or a back end closed it.
        Requested = "requested",
        /// The engine stopped.
        Shutdown = "shutdown",
        /// The socket failed or ended without a close.
        Lost = "lost",
        /// The client broke the protocol or a limit.
        Violation = "violation",
        /// A hook failed.
        HandlerFailed = "handler_failed",
        /// The client sent nothing for too long.
        ReadTimeout = "read_timeout",
        /// The client took nothing for too long.
        WriteTimeout = "write_timeout",
        /// More waited for the client than it may.
        TooSlow = "too_slow",
        /// The client took too long to send one message.
        MessageTimeout = "message_timeout",
        /// Memory was short.
        Memory = "memory",
        /// A defect of the engine.
        InternalError = "internal_error",
    }

    /// Why a connection was refused before it was open.
    pub enum RefusalCause {
        /// There were `maxConnections` already.
        MaxConnections = "max_connections",
        /// `rate.connects`.
        Rate = "rate",
        /// `rate.perAddress`.
        AddressRate = "address_rate",
        /// `maxConnectionsPerAddress`.
        AddressConnections = "address_connections",
        /// It came from no trusted proxy, or without a header that tells whom for.
        ProxyHeader = "proxy_header",
        /// Its TLS handshake failed.
        Tls = "tls",
        /// Memory was short.
        Memory = "memory",
        /// No descriptors were left for clients.
        Descriptors = "descriptors",
        /// The request was wrong, or did not come in time.
        Request = "request",
        /// The script refused, failed or was late.
        Script = "script",
        /// The engine stopped.
        Shutdown = "shutdown",
    }

    /// Which rate a client exceeded.
    pub enum RateLimit {
        /// `rate.messages`.
        Messages = "messages",
        /// `rate.bytes`.
        Bytes = "bytes",
    }

    /// The calls of the APIs: over HTTP, and, those with a dot, over a WebSocket as well.
    pub enum ApiCall {
        /// A publish.
        Publish = "mesh.publish",
        /// A send.
        Send = "mesh.send",
        /// A count of connections.
        Count = "mesh.count",
        /// A close of connections.
        Close = "mesh.close",
        /// Who is in a channel.
        Presence = "mesh.presence",
        /// What a channel has kept.
        History = "mesh.history",
        /// Which channels there are.
        Channels = "mesh.channels",
        /// What is known of a client.
        Client = "mesh.client",
        /// A page of the console or what only it asks for.
        Console = "console",
        /// A command to a connection.
        Conn = "conn.call",
        /// Consuming topics.
        QueuePop = "queue.pop",
        /// No longer consuming topics.
        QueueUnpop = "queue.unpop",
        /// Acknowledging messages of a topic.
        QueueAck = "queue.ack",
        /// Opening a WebSocket.
        WebSocket = "ws",
        /// The figures.
        Metrics = "metrics",
        /// The nodes of the cluster.
        Nodes = "nodes",
        /// The version.
        Version = "version",
        /// Whether the process lives.
        Health = "healthz",
        /// Whether it takes clients.
        Ready = "readyz",
        /// Watching events.
        Tail = "tail",
        /// Why a message did not reach a client.
        Why = "why",
        /// Anything else.
        Other = "other",
    }

    /// The results of API calls.
    pub enum CallResult {
        /// It was done.
        Ok = "ok",
        /// The body or a field is wrong.
        Invalid = "invalid",
        /// There is no such client, or it can't take the message.
        NotSent = "not_sent",
        /// A topic can't be consumed.
        NotPopped = "not_popped",
        /// The connection consumes the topic already.
        AlreadyPopped = "already_popped",
        /// The connection does not consume the topic.
        NotConsumed = "not_consumed",
        /// A client's connection did not apply a command.
        NotObeyed = "not_obeyed",
        /// No proper HTTP.
        BadRequest = "bad_request",
        /// The request needs what the server does not have.
        NotImplemented = "not_implemented",
        /// The request does not open a WebSocket.
        NoUpgrade = "no_upgrade",
        /// Credentials are missing or wrong.
        Unauthorized = "unauthorized",
        /// The user, or the web page, may not do that.
        Forbidden = "forbidden",
        /// No such path.
        NotFound = "not_found",
        /// The path does not take that method.
        MethodNotAllowed = "method_not_allowed",
        /// The body is too large.
        TooLarge = "too_large",
        /// The body did not arrive in time.
        Timeout = "timeout",
        /// The engine drains, or is stuck.
        Unavailable = "unavailable",
        /// Too many wrong credentials came from there.
        TooMany = "too_many",
        /// Too many WebSockets of back ends are open.
        Crowded = "crowded",
    }

    /// What TLS handshakes came to.
    pub enum Handshake {
        /// The connection is enciphered.
        Ok = "ok",
        /// The client spoke something else.
        NotTls = "not_tls",
        /// The client does not speak TLS 1.2 or 1.3.
        Version = "version",
        /// Nothing in common: ciphers, groups, signatures.
        Negotiation = "negotiation",
        /// The client's certificate is missing, or not accepted.
        Certificate = "certificate",
        /// The client refused, the engine's certificate in most cases.
        Refused = "refused",
        /// The client broke the protocol.
        Malformed = "malformed",
        /// The client did not go on in time.
        Timeout = "timeout",
        /// The client ended the connection.
        Closed = "closed",
    }

    /// Where compressed messages went.
    pub enum Direction {
        /// To clients.
        Out = "out",
        /// From clients.
        In = "in",
    }

    /// What the bytes of compressed messages are counted as.
    pub enum CompressionForm {
        /// What they hold.
        Plain = "plain",
        /// What is on the wire.
        Compressed = "compressed",
    }

    /// The result of a reload.
    pub enum ReloadResult {
        /// The new version runs.
        Ok = "ok",
        /// The one before stays.
        Error = "error",
    }
}

impl DropCause {
    /// Whether the rule of a channel wants it so.
    pub fn is_by_rule(self) -> bool {
        matches!(self, DropCause::Oldest | DropCause::Latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_at_its_position_and_found_by_its_word() {
        fn hold<L: Label>() {
            assert_eq!(L::Counts::default().as_ref().len(), L::ALL.len());
            for (at, label) in L::ALL.iter().enumerate() {
                assert_eq!((label.position(), L::find(label.word())), (at, Some(*label)));
            }
        }
        hold::<DropCause>();
        hold::<EndReason>();
        hold::<ApiCall>();
        hold::<CallResult>();
        hold::<Handshake>();
        hold::<Direction>();
        hold::<CompressionForm>();
        hold::<ReloadResult>();
        hold::<RefusalCause>();
        hold::<RateLimit>();
        assert_eq!(ApiCall::find("mesh.order"), None);
    }

    #[test]
    fn each_label_has_its_number() {
        let results = Labelled::default();
        [ReloadResult::Error, ReloadResult::Ok, ReloadResult::Error].into_iter().for_each(|label| results.one(label));
        assert_eq!((results.get(ReloadResult::Ok), results.get(ReloadResult::Error)), (1, 2));
        assert_eq!(results.sum(), 3);
    }
}
