//! The ESP transform beside the cipher alone: sealing and opening, at the sizes of a bare acknowledgement, a mixed load
//! and a full packet. The aim is at most 1.25 times ring's time at 1400 bytes; the table at the end says where we are.
//!
//! ring gets the inner packet alone, ESP encrypts its trailer as well: at sizes that are whole AES blocks those few
//! bytes cost ring one more, partial block, which is most of the difference at 64 bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use sekisho_esp::sa::{Keys, Transform};
use sekisho_esp::transform::outer::HEADER_MAX;
use sekisho_esp::transform::{EspHeader, InnerPacket, OpeningKey, ReplayWindow, SealingKey, Sequence};

const SIZES: [usize; 3] = [64, 352, 1400];
const START: usize = 128;

/// The least that can be done: ring's AEAD in place, with a nonce and additional data of the right form.
struct Bare {
    key: LessSafeKey,
    buffer: Vec<u8>,
    sealed: Vec<u8>,
    counter: u64,
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [7; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Bare {
    fn new(algorithm: &'static aead::Algorithm, size: usize) -> Self {
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).unwrap());
        let mut sealed = vec![0x45; size];
        key.seal_in_place_append_tag(nonce(0), Aad::from([0; 8]), &mut sealed).unwrap();
        Self { key, buffer: vec![0x45; size + 16], sealed, counter: 0 }
    }

    fn seal(&mut self) {
        self.counter += 1;
        let text = self.buffer.len() - 16;
        let (text, icv) = self.buffer.split_at_mut(text);
        let tag = self.key.seal_in_place_separate_tag(nonce(self.counter), Aad::from([0; 8]), text).unwrap();
        icv.copy_from_slice(tag.as_ref());
        black_box(&mut self.buffer);
    }

    fn open(&mut self) {
        self.buffer.copy_from_slice(&self.sealed);
        black_box(self.key.open_in_place(nonce(0), Aad::from([0; 8]), &mut self.buffer).unwrap());
    }
}

/// What the engine does with a packet, but for the outer headers: inner check, window, transform.
struct Esp {
    seal: SealingKey,
    open: OpeningKey,
    window: ReplayWindow,
    inner: Vec<u8>,
    buffer: Vec<u8>,
    sealed: Vec<u8>,
    number: u64,
}

impl Esp {
    fn new(transform: Transform, size: usize) -> Self {
        let (encryption, integrity) = transform.key_bytes();
        let keys = Keys { encryption: vec![7; encryption].into(), integrity: vec![7; integrity].into() };
        let mut inner = vec![0x45; size];
        inner[2..4].copy_from_slice(&(size as u16).to_be_bytes());
        inner[6..10].copy_from_slice(&[0x40, 0, 64, 17]);
        let mut buffer = vec![0; START + HEADER_MAX + size + 64];
        buffer[START..START + size].copy_from_slice(&inner);
        let mut esp = Self {
            seal: SealingKey::new(transform, &keys).unwrap(),
            open: OpeningKey::new(transform, &keys).unwrap(),
            window: ReplayWindow::new(0, false),
            inner,
            buffer,
            sealed: Vec::new(),
            number: 0,
        };
        let place = esp.seal();
        esp.sealed = esp.buffer[place].to_vec();
        esp
    }

    /// The header that is checked is kept aside: what lies in the buffer is encrypted from the second round on.
    fn seal(&mut self) -> std::ops::Range<usize> {
        self.number += 1;
        let packet = InnerPacket::parse(black_box(&self.inner)).unwrap();
        let place = START..START + packet.length;
        let sequence = Sequence { number: self.number, extended: false };
        black_box(self.seal.seal(&mut self.buffer, place, 0x1000, sequence, 4).unwrap())
    }

    fn open(&mut self) {
        let place = START..START + self.sealed.len();
        self.buffer[place.clone()].copy_from_slice(&self.sealed);
        let header = EspHeader::parse(&self.buffer[place.clone()]).unwrap();
        let sequence = self.window.check(header.sequence_low).unwrap();
        let opened = self.open.open(&mut self.buffer, place, sequence).unwrap();
        self.window.commit(sequence).unwrap();
        black_box(InnerPacket::parse(&self.buffer[opened.payload]).unwrap());
    }
}

const TRANSFORMS: [(&str, Transform, Option<&aead::Algorithm>); 7] = [
    ("aes128gcm16", Transform::Aes128Gcm16, Some(&aead::AES_128_GCM)),
    ("aes256gcm16", Transform::Aes256Gcm16, Some(&aead::AES_256_GCM)),
    ("chacha20poly1305", Transform::ChaCha20Poly1305, Some(&aead::CHACHA20_POLY1305)),
    ("aes128-sha256_128", Transform::Aes128CbcHmacSha256, None),
    ("aes256-sha256_128", Transform::Aes256CbcHmacSha256, None),
    ("aes256-sha384_192", Transform::Aes256CbcHmacSha384, None),
    ("aes256-sha512_256", Transform::Aes256CbcHmacSha512, None),
];

fn benchmark(criterion: &mut Criterion) {
    for (name, transform, algorithm) in TRANSFORMS {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut esp = Esp::new(transform, size);
            group.bench_function(BenchmarkId::new("esp-seal", size), |b| b.iter(|| esp.seal()));
            group.bench_function(BenchmarkId::new("esp-open", size), |b| b.iter(|| esp.open()));
            let Some(algorithm) = algorithm else { continue };
            let mut bare = Bare::new(algorithm, size);
            group.bench_function(BenchmarkId::new("ring-seal", size), |b| b.iter(|| bare.seal()));
            group.bench_function(BenchmarkId::new("ring-open", size), |b| b.iter(|| bare.open()));
        }
    }
}

/// Nanoseconds of one call of each: the least of many short runs taken in turn, so that both see the same machine.
fn compare(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (f64, f64) {
    const RUNS: usize = 200;
    const CALLS: u32 = 500;
    let time = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        began.elapsed() / CALLS
    };
    let mut least = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        least = (least.0.min(time(&mut ours)), least.1.min(time(&mut theirs)));
    }
    (least.0.as_nanos() as f64, least.1.as_nanos() as f64)
}

fn ratios() {
    println!(
        "{:<18} {:>5} {:>6}  {:>8} {:>8}  {:>5}",
        "transform", "bytes", "", "esp ns", "ring ns", "ratio"
    );
    for (name, transform, algorithm) in TRANSFORMS {
        let Some(algorithm) = algorithm else { continue };
        for size in SIZES {
            let (mut esp, mut bare) = (Esp::new(transform, size), Bare::new(algorithm, size));
            let seal = compare(|| assert!(!esp.seal().is_empty()), || bare.seal());
            let open = compare(|| esp.open(), || bare.open());
            for (what, (ours, theirs)) in [("seal", seal), ("open", open)] {
                println!("{name:<18} {size:>5} {what:>6}  {ours:>8.0} {theirs:>8.0}  {:>5.2}", ours / theirs);
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    benchmark(&mut criterion);
    criterion.final_summary();
    ratios();
}
