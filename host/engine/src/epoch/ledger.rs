//! The ledger: what history needs of an epoch after its marker is purged, one record per epoch.
//!
//! A run over the same input that is given the ledger's clock entries at their positions gives the same results, byte
//! for byte. Every field stands in the marker as well, which is hashed into the next one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hexed::digest;
use super::versioned::{self, Unreadable};
use super::{Clock, Marker, Position};
use crate::totals::Totals;

/// Format of ledger records that this host writes.
const LEDGER_VERSION: u8 = 1;

/// One epoch. The fields are those of [`super::MarkerFields`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub version: u8,
    pub epoch: u64,
    #[serde(with = "digest")]
    pub revision: [u8; 32],
    pub position: Position,
    pub published: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<Clock>,
    pub watermark: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    pub totals: Totals,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dead: BTreeMap<String, u64>,
}

impl Ledger {
    /// What a marker says of its epoch.
    #[must_use]
    pub fn of(marker: &Marker) -> Ledger {
        Ledger {
            version: LEDGER_VERSION,
            epoch: marker.epoch,
            revision: marker.revision,
            position: marker.position,
            published: marker.published,
            clock: marker.clock.clone(),
            watermark: marker.watermark,
            ended: marker.ended,
            totals: marker.totals,
            dead: marker.dead.clone(),
        }
    }

    /// Reads a record as it is stored.
    ///
    /// # Errors
    /// When the bytes are not a ledger record of the format of this host.
    pub fn decode(bytes: &[u8]) -> Result<Ledger, Unreadable> {
        versioned::check(bytes, "ledger", LEDGER_VERSION)?;
        serde_json::from_slice(bytes).map_err(|error| Unreadable::damaged("ledger", &error))
    }

    /// As it is stored: JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a ledger record holds only numbers, strings and lists")
    }
}
