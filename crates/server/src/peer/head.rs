//! What every call and stream carries in its metadata: the token, the protocol's version, who sends, and to whom.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use consensus::transport::wire::Route;
use serde::{Deserialize, Serialize};
use state::ids::NodeId;
use subtle::ConstantTimeEq;
use tonic::metadata::{MetadataMap, MetadataValue};
use uuid::Uuid;

/// The version of everything that nodes say to one another.
pub(crate) const PROTOCOL: u32 = 2;

const TOKEN: &str = "authorization";
const VERSION: &str = "insidb-protocol";
const HEAD: &str = "insidb-head-bin";

/// What all nodes of a cluster know, and nobody else. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token from the bytes that were derived for it.
    pub fn new(bytes: &[u8]) -> Self {
        Self(format!("Bearer {}", URL_SAFE_NO_PAD.encode(bytes)))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Who sends, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The sender's cluster; none for a node that waits to be taken into one.
    pub(crate) cluster_id: Option<Uuid>,
    /// The sending node.
    pub(crate) node: NodeId,
    /// For the messages of Raft's groups.
    pub(crate) route: Option<Route>,
}

/// Puts a head into a call's metadata.
pub(crate) fn write(metadata: &mut MetadataMap, token: &Token, head: &Head) {
    let token = MetadataValue::try_from(token.0.as_str()).expect("a token is letters and digits");
    metadata.insert(TOKEN, token);
    metadata.insert(VERSION, MetadataValue::from(PROTOCOL));
    let head = postcard::to_stdvec(head).expect("a head is plain data: encoding cannot fail");
    metadata.insert_bin(HEAD, MetadataValue::from_bytes(&head));
}

/// Takes the head out of a call's metadata.
///
/// # Errors
/// A sentence for the logs of both nodes, when the sender is none of this cluster's.
pub(crate) fn read(metadata: &MetadataMap, token: &Token, cluster_id: Option<Uuid>) -> Result<Head, String> {
    let given = metadata.get(TOKEN).map_or(&[][..], |value| value.as_bytes());
    if !bool::from(given.ct_eq(token.0.as_bytes())) {
        return Err("the cluster's token is wrong: do all nodes have the same instance secret?".to_owned());
    }
    let version = metadata.get(VERSION).and_then(|value| value.to_str().ok()).unwrap_or("none");
    if version != PROTOCOL.to_string() {
        return Err(format!("the sender speaks version {version} of the nodes' protocol; this node speaks {PROTOCOL}"));
    }
    let head = metadata.get_bin(HEAD).and_then(|value| value.to_bytes().ok()).ok_or("the call has no head")?;
    let head: Head = postcard::from_bytes(&head).map_err(|error| format!("the call's head is malformed: {error}"))?;
    match (head.cluster_id, cluster_id) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            Err(format!("the sender, node {}, is of cluster {theirs}; this node is of cluster {ours}", head.node))
        }
        _ => Ok(head),
    }
}
