/// The hash by which Java's default partitioner picks a key's partition: 32-bit Murmur 2 (Austin Appleby, public domain),
/// with Kafka's seed.
///
/// ```text
/// partition = (murmur2(key) & 0x7fff_ffff) % partitions
/// ```
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Keys are shorter than 4 GiB: only the low bits of the length count, as in Java.
    #[allow(clippy::cast_possible_truncation, reason = "as in Java")]
    let mut hash = SEED ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key with this hash, of so many.
pub fn partition_of(hash: u32, partitions: u32) -> u32 {
    (hash & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `org.apache.kafka.common.utils.Utils.murmur2` answers.
    #[test]
    fn it_gives_what_javas_gives() {
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key).cast_signed(), hash, "{key:?}");
        }
        assert_eq!(
            partition_of(murmur2(b"21"), 4),
            ((-973_932_308_i32) & 0x7fff_ffff) as u32 % 4
        );
    }
}
