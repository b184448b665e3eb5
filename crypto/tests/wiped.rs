//! After a key was used and dropped, the memory of the process does not hold it any more: what a core dump, or a
//! neighbour's overrun, would show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use trellis_crypto::{Algorithm, PrivateKey};
use zeroize::Zeroizing;

/// Bytes that nothing else has, computed anew each time so that they lie nowhere.
fn seed(length: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new((0..length).map(byte).collect())
}

fn byte(at: usize) -> u8 {
    (at as u8).wrapping_mul(151).rotate_left(3) ^ 0x5c
}

/// How often the first 16 bytes of a seed lie in memory that can be written to.
fn copies() -> usize {
    const BLOCK: usize = 1 << 16;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, to) = (address(from), address(to));
        // What is looked through is copied, and must not be found there a second time.
        let mut block = Zeroizing::new(vec![0; BLOCK]);
        while at < to {
            let Ok(read) = memory.read_at(&mut block, at) else { break };
            let windows = block[..read].windows(16);
            found += windows.filter(|window| window.iter().enumerate().all(|(i, b)| *b == byte(i))).count();
            block.fill(0);
            if read < BLOCK {
                break;
            }
            at += (BLOCK - 15) as u64;
        }
    }
    found
}

#[test]
fn of_a_dropped_key_nothing_is_left() {
    for name in ["ML-KEM-768", "X25519MLKEM768", "ML-DSA-65", "SLH-DSA-SHA2-128f"] {
        let algorithm = Algorithm::parse(name).unwrap().algorithm;
        let key = PrivateKey::from_seed(algorithm, &seed(algorithm.seed_len())).unwrap();
        let pem = key.pem().unwrap();
        match PrivateKey::from_pem(&pem).unwrap() {
            PrivateKey::Kem(key) => key.check().unwrap(),
            PrivateKey::Signature(key) => {
                key.sign(b"message", b"").unwrap();
                key.sign(b"message", b"context").unwrap();
            }
        }
        assert!(copies() > 0, "{name}: the key is there, and would be found");
        drop((pem, key));
        assert_eq!(copies(), 0, "{name}");
    }
}
