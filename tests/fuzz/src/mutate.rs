//! Random changes to kept inputs, for runs without coverage: the same seed gives the same inputs on every machine.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}

/// Longest input; what comes of longer ones comes of shorter ones, too.
const BYTES_MAX: usize = 24 << 10;

/// One of `corpus` with a few changes, some of them pieces of others.
///
/// # Panics
/// When the corpus is empty.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        change(&mut bytes, corpus, random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    /// Ends of ranges, and what text formats are made of.
    const SPECIAL: &[u8] = b"\x00\x01\x7f\x80\xff\"{}[]:,.=-+0129eEnt/\\#'\n\r ";
    let at = random.below(bytes.len() + 1);
    let end = bytes.len().min(at + 1 + random.below(32));
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = SPECIAL[random.below(SPECIAL.len())],
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(random.number() as u8 % 9).wrapping_sub(4),
        3 => bytes.insert(at, SPECIAL[random.below(SPECIAL.len())]),
        4 => drop(bytes.drain(at..end)),
        5 => bytes.truncate(at),
        6 => {
            let piece = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        7 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + random.below(256));
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
        _ => bytes.extend((0..random.below(24)).map(|_| random.number() as u8)),
    }
}
