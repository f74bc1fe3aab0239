//! Several workers of one gateway, with the same SAs.

use std::collections::BTreeSet;
use std::thread;

use super::*;

const SPI_A: u32 = 0xaaaa_0001;
const SPI_B: u32 = 0xbbbb_0001;

/// Two gateways of two workers each, with one pair between them.
fn gateways_of_two(pair: SaPair) -> ([Gateway; 2], [Gateway; 2]) {
    let (mut a, mut b) = (Gateway::workers(), Gateway::workers());
    install(&mut b, mirrored(&pair), true);
    install(&mut a, pair, true);
    (a, b)
}

fn install(workers: &mut [Gateway], pair: SaPair, activate: bool) {
    let first = Pair::new(pair).unwrap();
    for worker in workers {
        worker.take(first.share(), activate);
    }
}

fn counters(workers: &mut [Gateway], spi_in: u32) -> PairCounters {
    workers.iter_mut().map(|worker| worker.counters(spi_in)).sum()
}

fn sequence(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[38..42].try_into().unwrap())
}

/// What every worker makes of its work, all at once.
fn at_once<T: Send>(workers: &mut [Gateway], work: impl Fn(&mut Pipeline) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            workers.iter_mut().map(|Gateway { pipeline, .. }| scope.spawn(move || work(pipeline))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn they_use_each_number_once_and_take_each_packet_once() {
    const PACKETS: usize = 1000;
    for esn in [false, true] {
        // No packet is older than the window, in whatever order they come.
        let pair = SaPair { esn, replay_window: 4 * PACKETS as u32, ..pair_a(plain()) };
        let (mut a, mut b) = gateways_of_two(pair);
        let frames = at_once(&mut a, |pipeline| {
            let frame = plaintext(PORT_A, &ping());
            (0..PACKETS).map(|_| encrypt(pipeline, &frame).unwrap()).collect::<Vec<_>>()
        });
        for frames in &frames {
            assert!(frames.iter().map(|frame| sequence(frame)).is_sorted(), "order within a worker");
        }
        let frames = frames.concat();
        let numbers: BTreeSet<u32> = frames.iter().map(|frame| sequence(frame)).collect();
        assert!(numbers.into_iter().eq(1..=2 * PACKETS as u32));
        // Both are offered everything.
        let taken = at_once(&mut b, |pipeline| {
            frames.iter().filter(|frame| decrypt(pipeline, frame).is_ok()).count()
        });
        assert_eq!(taken.iter().sum::<usize>(), frames.len());
        let (sent, received) = (counters(&mut a, SPI_A).outbound, counters(&mut b, SPI_B).inbound);
        let packets = frames.len() as u64;
        assert_eq!((sent.packets, received.packets, received.replay), (packets, packets, packets));
        assert_eq!((sent.bytes, received.bytes), (packets * 128, packets * 128));
        assert_eq!(a[0].event(), None);
        assert_eq!(b[0].event(), None);
    }
}

#[test]
fn a_packet_that_one_took_is_a_replay_to_the_other() {
    let ([mut a, _], [mut first, mut second]) = gateways_of_two(pair_a(plain()));
    let frame = a.encrypt(PORT_A, &ping()).unwrap();
    assert!(first.decrypt(&frame).is_ok());
    assert_eq!(second.decrypt(&frame), Err(DropReason::Replay));
    assert_eq!(second.counters(SPI_B).inbound.replay, 1);
}

#[test]
fn lifetimes_and_numbers_end_for_all_at_once_and_are_told_once() {
    let lifetimes = Lifetimes { soft_packets: Some(2), hard_bytes: Some(4 * 128), ..Lifetimes::default() };
    let ([mut first, mut second], [mut b, _]) = gateways_of_two(SaPair { lifetimes, ..pair_a(plain()) });
    for _ in 0..2 {
        assert!(b.decrypt(&first.encrypt(PORT_A, &ping()).unwrap()).is_ok());
        assert!(b.decrypt(&second.encrypt(PORT_A, &ping()).unwrap()).is_ok());
    }
    assert_eq!(first.event(), Some(SaEvent::SoftExpired { spi_in: SPI_A }));
    for worker in [&mut first, &mut second] {
        assert_eq!(worker.encrypt(PORT_A, &ping()), Err(DropReason::Expired));
    }
    assert_eq!(first.event(), Some(SaEvent::HardExpired { spi_in: SPI_A }));
    assert_eq!(first.event(), None);

    let (mut a, _) = gateways_of_two(pair_a(plain()));
    let left = 100;
    let outbound = a[0].pipeline.table.inbound(SPI_A).unwrap().outbound.as_ref().unwrap();
    outbound.sa.sequence.skip_to(u64::from(u32::MAX) - left);
    let sent = at_once(&mut a, |pipeline| {
        let frame = plaintext(PORT_A, &ping());
        (0..left).filter(|_| encrypt(pipeline, &frame).is_ok()).count() as u64
    });
    assert_eq!(sent.iter().sum::<u64>(), left);
    let events: Vec<_> = a[0].events.try_iter().collect();
    let spi_in = SPI_A;
    assert_eq!(events, [SaEvent::SoftExpired { spi_in }, SaEvent::HardExpired { spi_in }]);
    assert_eq!(counters(&mut a, SPI_A).outbound.expired, left);
}

#[test]
fn what_one_has_told_the_other_does_not_tell() {
    let here = outer("192.0.2.1:4500", "198.51.100.2:4500", true);
    let (mut a, mut b) = (Gateway::workers::<2>(), Gateway::workers::<2>());
    for worker in &mut a {
        assert_eq!(worker.encrypt(PORT_A, &ping()), Err(DropReason::NoSa));
    }
    assert!(matches!(a[0].event(), Some(SaEvent::Acquire { port: PORT_A, .. })));
    assert_eq!(a[0].event(), None);

    install(&mut b, mirrored(&pair_a(here)), false);
    install(&mut a, pair_a(here), true);
    let frames: Vec<_> = (0..4)
        .map(|turn| {
            let mut frame = a[turn % 2].encrypt(PORT_A, &ping()).unwrap();
            // The mapping of a NAT between has changed.
            frame[14 + 21] = 0x99;
            frame
        })
        .collect();
    for (turn, frame) in frames.iter().enumerate() {
        assert!(b[turn % 2].decrypt(frame).is_ok());
    }
    let remote = SocketAddr::new("192.0.2.1".parse().unwrap(), 0x1199);
    let events: Vec<_> = b[0].events.try_iter().collect();
    assert_eq!(
        events,
        [SaEvent::FirstInbound { spi_in: SPI_B }, SaEvent::Remapped { spi_in: SPI_B, remote }]
    );
}

/// Fragments of two packets with one identification would be put together to neither.
#[test]
fn no_two_packets_of_different_workers_have_one_identification() {
    let mut a = Gateway::workers::<3>();
    install(&mut a, pair_a(plain()), true);
    let mut may_be_fragmented = ping();
    may_be_fragmented[6] = 0;
    // One has carried more than the others, up to the wrap.
    let first = &mut a[0].pipeline;
    first.identification = u16::MAX - u16::MAX % first.identification_step;
    let mut seen = BTreeSet::new();
    for turn in 0..300 {
        let frame = a[turn % 3].encrypt(PORT_A, &may_be_fragmented).unwrap();
        assert!(seen.insert([frame[14 + 4], frame[14 + 5]]));
    }
}

#[test]
fn what_a_device_has_no_room_for_takes_no_number() {
    let ([mut a, _], _) = gateways_of_two(pair_a(plain()));
    assert_eq!(sequence(&a.encrypt(PORT_A, &ping()).unwrap()), 1);
    a.pipeline.backed_up.fill(true);
    assert_eq!(a.encrypt(PORT_A, &ping()), Err(DropReason::RingFull));
    a.pipeline.backed_up.fill(false);
    assert_eq!(sequence(&a.encrypt(PORT_A, &ping()).unwrap()), 2);
    let sent = a.counters(SPI_A).outbound;
    assert_eq!((sent.packets, sent.unsent), (2, 1));
}

/// One pair for all, and one for each of so many resources; each by its SPI.
fn with_resources(workers: &mut [Gateway], resources: u16) {
    let of = |resource: Option<u16>| {
        let spi = resource.map_or(0x2000, |number| 0x1000 + u32::from(number));
        SaPair { resource, spi_in: spi, spi_out: spi, ..pair_a(plain()) }
    };
    install(workers, of(None), true);
    (0..resources).for_each(|number| install(workers, of(Some(number)), true));
}

/// By which SPIs a worker sends so many flows, each of them twice.
fn sent_by(worker: &mut Gateway, flows: u16) -> BTreeSet<u32> {
    let spi = |frame: Vec<u8>| u32::from_be_bytes(frame[34..38].try_into().unwrap());
    (0..flows)
        .map(|flow| {
            let packet = ipv4([10, 1, 0, 2], [10, 2, 0, 3], 17, &udp(1000 + flow, 7, &[1; 20]));
            let [first, second] = [(); 2].map(|()| spi(worker.encrypt(PORT_A, &packet).unwrap()));
            assert_eq!(first, second, "a flow stays with its SA");
            first
        })
        .collect()
}

#[test]
fn each_sends_with_its_own_sa_and_without_one_with_that_of_all() {
    let mut a = Gateway::workers::<3>();
    with_resources(&mut a, 2);
    assert_eq!(
        a.each_mut().map(|worker| sent_by(worker, 50)),
        [[0x1000].into(), [0x1001].into(), [0x2000].into()]
    );
    // No two share a number, and each number goes out once.
    let sent = |workers: &mut [Gateway; 3], spi| counters(workers, spi).outbound.packets;
    assert_eq!([0x1000, 0x1001, 0x2000].map(|spi| sent(&mut a, spi)), [100; 3]);

    // A successor takes the place of its own predecessor alone.
    let next = SaPair { resource: Some(0), spi_in: 0x3000, spi_out: 0x3000, ..pair_a(plain()) };
    install(&mut a, next, false);
    assert_eq!(sent_by(&mut a[0], 5), [0x1000].into());
    for worker in &mut a {
        worker.pipeline.table.activate(0x3000).unwrap();
        let now = worker.pipeline.now;
        worker.pipeline.table.remove(0x1000, Duration::from_secs(5), now).unwrap();
    }
    assert_eq!(
        a.each_mut().map(|worker| sent_by(worker, 5)),
        [[0x3000].into(), [0x1001].into(), [0x2000].into()]
    );

    // What is gone the one of all carries.
    for worker in &mut a {
        let now = worker.pipeline.now;
        worker.pipeline.table.remove(0x1001, Duration::ZERO, now).unwrap();
    }
    assert_eq!(
        a.each_mut().map(|worker| sent_by(worker, 5)),
        [[0x3000].into(), [0x2000].into(), [0x2000].into()]
    );
    // And where that is gone, any.
    for worker in &mut a {
        let now = worker.pipeline.now;
        worker.pipeline.table.remove(0x2000, Duration::ZERO, now).unwrap();
        assert_eq!(sent_by(worker, 5), [0x3000].into());
        worker.pipeline.table.remove(0x3000, Duration::ZERO, now).unwrap();
        assert_eq!(worker.encrypt(PORT_A, &ping()), Err(DropReason::NoSa));
    }
}

#[test]
fn who_has_several_deals_flows_out_among_them() {
    let mut a = Gateway::workers::<2>();
    with_resources(&mut a, 5);
    let [first, second] = a.each_mut().map(|worker| sent_by(worker, 200));
    assert_eq!((first, second), ([0x1000, 0x1002, 0x1004].into(), [0x1001, 0x1003].into()));
}

#[test]
fn an_sa_of_one_resource_is_received_by_every_worker() {
    let mut a = Gateway::workers::<2>();
    let mut b = Gateway::workers::<2>();
    let own = SaPair { resource: Some(0), ..pair_a(plain()) };
    install(&mut b, SaPair { resource: Some(1), ..mirrored(&own) }, true);
    install(&mut a, own, true);
    for turn in 0..4 {
        let frame = a[0].encrypt(PORT_A, &ping()).unwrap();
        assert!(b[turn % 2].decrypt(&frame).is_ok());
    }
    assert_eq!(b[0].event(), None, "it was in use before, by whichever of them");
}

#[test]
fn selectors_decide_before_resources() {
    let [mut a] = Gateway::workers();
    let pair = |name: &str, resource, spi, remote| SaPair {
        name: name.into(),
        resource,
        spi_in: spi,
        spi_out: spi,
        remote: vec![remote],
        ..pair_a(plain())
    };
    let (narrow, wide) =
        (selector("10.2.0.3", "10.2.0.3", 0, 0..=65535), selector("10.2.0.0", "10.2.255.255", 0, 0..=65535));
    a.install(pair("host", None, 0x1000, narrow), true);
    a.install(pair("all", None, 0x2000, wide.clone()), true);
    a.install(pair("all", Some(0), 0x2001, wide), true);
    assert_eq!(sent_by(&mut a, 20), [0x1000].into(), "the host has no pair for this resource, and its own");
    let elsewhere = ipv4([10, 1, 0, 2], [10, 2, 0, 9], 17, &udp(1, 2, b""));
    assert_eq!(a.encrypt(PORT_A, &elsewhere).unwrap()[34..38], 0x2001u32.to_be_bytes());
    let outside = ipv4([10, 1, 0, 2], [10, 9, 0, 9], 17, &udp(1, 2, b""));
    assert_eq!(a.encrypt(PORT_A, &outside), Err(DropReason::Selector));
}
