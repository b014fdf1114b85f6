//! How many different values there are, up to a limit.

use std::collections::BTreeSet;

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::value::Value;

/// So many fingerprints are kept in a sorted list; to insert into a longer one would cost more than a tree.
const FEW_MAX: usize = 1024;

/// The fingerprints of the different values of one key and slice, at most `limit` of them.
///
/// The number of different values is exact up to the limit, also when slices are merged: a slice that has stopped has
/// reached the limit by itself. Values are told apart by a fingerprint of 64 bits, see [`fingerprint`].
#[derive(Clone, Debug)]
pub struct Distinct(Fingerprints);

#[derive(Clone, Debug)]
enum Fingerprints {
    /// Most keys have a single value in a slice: without an allocation that takes a third of the memory.
    One(u64),
    /// None, or several; ascending.
    Few(Vec<u64>),
    /// Boxed, so that a row is no larger than a list.
    Many(Box<Many>),
}

#[derive(Clone, Debug)]
struct Many {
    all: BTreeSet<u64>,
    /// Those that are not stored; `None` when none is.
    fresh: Option<Vec<u64>>,
}

impl Default for Distinct {
    fn default() -> Distinct {
        Distinct(Fingerprints::Few(Vec::new()))
    }
}

impl Distinct {
    /// A set that was stored; `None` when the fingerprints do not ascend.
    #[must_use]
    pub fn from_ascending(all: Vec<u64>) -> Option<Distinct> {
        if !all.is_sorted_by(|left, right| left < right) {
            return None;
        }
        Some(Distinct(match all.as_slice() {
            [one] => Fingerprints::One(*one),
            all if all.len() > FEW_MAX => {
                Fingerprints::Many(Box::new(Many { all: all.iter().copied().collect(), fresh: Some(Vec::new()) }))
            }
            _ => Fingerprints::Few(all),
        }))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Fingerprints::One(_) => 1,
            Fingerprints::Few(all) => all.len(),
            Fingerprints::Many(many) => many.all.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All fingerprints, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (few, many) = match &self.0 {
            Fingerprints::One(one) => (std::slice::from_ref(one), None),
            Fingerprints::Few(all) => (all.as_slice(), None),
            Fingerprints::Many(many) => (&[][..], Some(many.all.iter())),
        };
        few.iter().chain(many.into_iter().flatten()).copied()
    }

    /// Appends all fingerprints, ascending.
    pub fn append_to(&self, all: &mut Vec<u64>) {
        match &self.0 {
            Fingerprints::One(one) => all.push(*one),
            Fingerprints::Few(few) => all.extend_from_slice(few),
            Fingerprints::Many(many) => all.extend(many.all.iter()),
        }
    }

    /// Adds a value as long as there are fewer than `limit`. `key` is the same for all values of a set and of those that it
    /// is merged with.
    pub fn add(&mut self, value: Value<'_>, limit: u32, key: HashKey) {
        let fingerprint = fingerprint(value, key);
        let is_full = self.len() >= limit as usize;
        match &mut self.0 {
            Fingerprints::Few(all) if all.is_empty() && !is_full => self.0 = Fingerprints::One(fingerprint),
            Fingerprints::One(one) => {
                if *one != fingerprint && !is_full {
                    let (low, high) = ((*one).min(fingerprint), (*one).max(fingerprint));
                    self.0 = Fingerprints::Few(vec![low, high]);
                }
            }
            Fingerprints::Few(all) => {
                if let Err(at) = all.binary_search(&fingerprint)
                    && !is_full
                {
                    all.insert(at, fingerprint);
                    if all.len() > FEW_MAX {
                        let all = std::mem::take(all).into_iter().collect();
                        self.0 = Fingerprints::Many(Box::new(Many { all, fresh: None }));
                    }
                }
            }
            Fingerprints::Many(many) => {
                if !is_full
                    && many.all.insert(fingerprint)
                    && let Some(fresh) = &mut many.fresh
                {
                    fresh.push(fingerprint);
                }
            }
        }
    }

    /// Those that have come since [`Distinct::mark_stored`], ascending; `None` when that are all, or there are few.
    #[must_use]
    pub fn changes(&self) -> Option<Vec<u64>> {
        let Fingerprints::Many(many) = &self.0 else { return None };
        let mut fresh = many.fresh.clone()?;
        fresh.sort_unstable();
        Some(fresh)
    }

    /// Rough bytes of what has to be stored: the changes, or all of it.
    #[must_use]
    pub fn change_bytes(&self) -> usize {
        let count = match &self.0 {
            Fingerprints::Many(many) => many.fresh.as_ref().map_or(many.all.len(), Vec::len),
            Fingerprints::One(_) | Fingerprints::Few(_) => self.len(),
        };
        count * size_of::<u64>()
    }

    /// All of it is stored.
    pub fn mark_stored(&mut self) {
        if let Fingerprints::Many(many) = &mut self.0 {
            many.fresh = Some(Vec::new());
        }
    }

    /// Applies changes that were stored, to what they are changes of; `None` when they cannot be.
    #[must_use]
    pub fn apply(&mut self, fresh: &[u64]) -> Option<()> {
        let Fingerprints::Many(many) = &mut self.0 else { return None };
        fresh.iter().all(|fingerprint| many.all.insert(*fingerprint)).then_some(())
    }

    /// Rough memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Fingerprints::One(_) => 0,
            Fingerprints::Few(all) => all.len() * 8,
            Fingerprints::Many(many) => many.all.len() * 16,
        }
    }
}

/// Key of the hash by which texts are told apart. Who knows it can make texts that count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

/// The fingerprint by which values of one kind are told apart. Integers and numbers never share one; of texts, two of a
/// million of one set do with probability 3e-8, and nobody who does not know the key can choose texts that do
/// (SipHash-1-3; Aumasson, Bernstein 2012).
#[must_use]
pub fn fingerprint(value: Value<'_>, key: HashKey) -> u64 {
    match value {
        Value::Missing => 0,
        Value::Boolean(value) => fingerprint(Value::Integer(i64::from(value)), key),
        Value::Integer(value) => mix(value as u64 ^ 0x9e37_79b9_7f4a_7c15),
        Value::Number(value) => mix((value + 0.0).to_bits() ^ 0xc2b2_ae3d_27d4_eb4f),
        Value::String(bytes) => {
            let mut hasher = SipHasher13::new_with_key(&key.0);
            hasher.write(bytes);
            hasher.finish()
        }
    }
}

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so integers never collide.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_at_its_limit_and_survives_being_stored() {
        for limit in [1, 2, FEW_MAX as u32, FEW_MAX as u32 + 1, 3000] {
            let mut distinct = Distinct::default();
            for value in (0..5000).chain(0..5000) {
                distinct.add(Value::Integer(value), limit, HashKey::default());
                let expected = (value + 1).min(i64::from(limit)) as usize;
                assert!(distinct.len() == expected || distinct.len() == limit as usize);
            }
            assert_eq!(distinct.len(), limit as usize);
            let stored: Vec<u64> = distinct.iter().collect();
            let restored = Distinct::from_ascending(stored.clone()).unwrap();
            assert_eq!((restored.len(), restored.bytes()), (distinct.len(), distinct.bytes()));
            assert_eq!(restored.iter().collect::<Vec<_>>(), stored);
        }
        assert!(Distinct::from_ascending(vec![2, 2]).is_none());
        assert!(Distinct::from_ascending(vec![2, 1]).is_none());
    }

    #[test]
    fn what_is_stored_as_changes_is_what_is_here() {
        let (mut distinct, mut stored) = (Distinct::default(), Distinct::default());
        for round in 0..3000_i64 {
            distinct.add(Value::Integer(round * round % 2503), 2000, HashKey::default());
            if round % 37 != 0 {
                continue;
            }
            match distinct.changes() {
                None => stored = Distinct::from_ascending(distinct.iter().collect()).unwrap(),
                Some(fresh) => {
                    assert!(fresh.len() <= 37 && distinct.change_bytes() == 8 * fresh.len());
                    stored.apply(&fresh).unwrap();
                    assert!(fresh.is_empty() || stored.apply(&fresh).is_none(), "no fingerprint comes twice");
                }
            }
            distinct.mark_stored();
            assert!(stored.iter().eq(distinct.iter()));
        }
        assert!(distinct.changes().is_some_and(|fresh| fresh.is_empty()));
        assert_eq!(Distinct::default().apply(&[1]), None, "a small one is stored whole");
    }

    #[test]
    fn the_zeros_are_one_value_and_kinds_have_fingerprints_of_their_own() {
        let fingerprint = |value| fingerprint(value, HashKey([7; 16]));
        assert_eq!(fingerprint(Value::Number(0.0)), fingerprint(Value::Number(-0.0)));
        let all = [Value::Integer(0), Value::Number(0.0), Value::String(b""), Value::String(b"\0"), Value::Integer(1)];
        let fingerprints: BTreeSet<u64> = all.map(fingerprint).into();
        assert_eq!(fingerprints.len(), all.len());
    }

    #[test]
    fn texts_that_collide_under_one_key_do_not_under_another() {
        // What can be found without the key is a collision for a key that is guessed: 32 bits of it are found quickly.
        let (guessed, real) = (HashKey([0; 16]), HashKey(*b"0123456789abcdef"));
        let mut seen = std::collections::BTreeMap::new();
        let mut pairs = Vec::new();
        for number in 0_u32.. {
            let text = number.to_string();
            let short = fingerprint(Value::String(text.as_bytes()), guessed) as u32;
            if let Some(other) = seen.insert(short, text.clone()) {
                pairs.push((other, text));
                if pairs.len() == 3 {
                    break;
                }
            }
        }
        for (one, other) in pairs {
            let short = |text: &str| fingerprint(Value::String(text.as_bytes()), real) as u32;
            assert_ne!(short(&one), short(&other), "{one} {other}");
        }
    }

    #[test]
    fn fingerprints_are_those_of_the_published_algorithm() {
        // Stored with the state: they must never change.
        let key = HashKey(std::array::from_fn(|at| at as u8));
        let all = [&b""[..], b"a", b"0123456789abcdef0"].map(|text| fingerprint(Value::String(text), key));
        assert_eq!(all, [12370263754033579228, 2028475444892426807, 14483654403721763188]);
    }
}
