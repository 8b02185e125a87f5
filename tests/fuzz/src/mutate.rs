/// Inputs near given ones; the same from the same number, in every run.
#[derive(Debug, Clone)]
pub struct Mutator(u64);

/// Numbers at which lengths and counts turn over.
const EDGES: [u8; 9] = [0, 1, 12, 13, 14, 0x7f, 0x80, 0xfe, 0xff];
/// Most inputs are datagrams: a longer one shows little more.
const LONGEST: usize = 4_096;

impl Mutator {
    /// The number 0 counts as 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below the bound; 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// One of the seeds with a few changes; now and then the beginning of one and the end of another.
    pub fn near(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let pick = |at: usize| seeds.get(at).cloned().unwrap_or_default();
        let mut bytes = pick(self.below(seeds.len()));
        if self.below(8) == 0 {
            let other = pick(self.below(seeds.len()));
            bytes.truncate(self.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
        }
        self.change(&mut bytes);
        bytes
    }

    /// Changes one to eight things.
    pub fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = EDGES[self.below(EDGES.len())],
                2 => bytes.insert(at, self.below(256) as u8),
                3 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                4 => bytes.truncate(at),
                5 => {
                    // A piece once more, as lists and nestings grow.
                    let end = bytes.len().min(at + 1 + self.below(32));
                    let piece = bytes[at.min(end)..end].to_vec();
                    for _ in 0..=self.below(8) {
                        bytes.splice(at..at, piece.iter().copied());
                    }
                }
                _ => {
                    let count = self.below(8);
                    for _ in 0..count {
                        let byte = self.below(256) as u8;
                        bytes.push(byte);
                    }
                }
            }
        }
        bytes.truncate(LONGEST);
    }
}
