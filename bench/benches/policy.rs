//! Compiling an administrator's policies into the entries of the programs' maps, as a start and every reload do: by services,
//! by hosts, and with large address sets. A reload of ten thousand shall take less than a second, of which this is a part.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::SystemTime;

use criterion::{BenchmarkId, Criterion};
use sekisho::config::{Config, check};

/// Numbers of policies.
const COUNTS: [u32; 3] = [100, 1000, 10_000];
/// Prefixes of the address set.
const PREFIXES: u32 = 100_000;
/// Two ports, and nothing else that would take part.
const PORTS: &str = "[gateway]\nname = \"bench\"\n\n[ports.lan1]\ninterface = \"lan1\"\naddresses = [\"192.168.1.1/24\"]\n\n\
                     [ports.wan]\ninterface = \"wan\"\naddresses = [\"198.51.100.2/30\"]\nuplink = true\n\
                     gateways = [\"198.51.100.1\"]\n\n";

/// What tells the policies of a list apart.
#[derive(Clone, Copy)]
enum Kind {
    /// A port each: one list that all of them share.
    Services,
    /// A destination each: as many classes of addresses as policies.
    Hosts,
    /// A port each, for destinations in one set of a hundred thousand.
    Sets,
}

impl Kind {
    const ALL: [(&str, Kind); 3] =
        [("a service each", Kind::Services), ("a host each", Kind::Hosts), ("a large set", Kind::Sets)];

    /// The file with so many policies.
    fn file(self, policies: u32) -> String {
        let mut out = PORTS.to_owned();
        if matches!(self, Kind::Sets) {
            out.push_str("[sets]\nknown = [");
            for number in 0..PREFIXES {
                let [_, b, c, d] = (number * 7).to_be_bytes();
                let _ = write!(out, "\"{}.{c}.{d}.1\",", 100 + b);
            }
            out.push_str("]\n");
        }
        for number in 0..policies {
            let (which, port) = match self {
                Kind::Services => (String::new(), 1000 + number),
                Kind::Hosts => {
                    let [_, _, c, d] = number.to_be_bytes();
                    (format!("destination = [\"203.0.{c}.{d}\"]\n"), 443)
                }
                Kind::Sets => ("destination = [\"known\"]\n".to_owned(), 1000 + number),
            };
            let _ = write!(
                out,
                "[[policy]]\nname = \"p{number}\"\nfrom = \"lan1\"\nto = \"wan\"\n{which}allow = [\"tcp/{port}\"]\n"
            );
        }
        out
    }
}

fn configuration(text: &str) -> Config {
    match check(Path::new("bench.toml"), text, SystemTime::now()) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{}", errors.first().map(ToString::to_string).unwrap_or_default()),
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for (name, kind) in Kind::ALL {
        for count in COUNTS {
            let text = kind.file(count);
            let config = configuration(&text);
            let now = SystemTime::now();
            let rules = config.rules(now).expect("within the bounds");
            println!(
                "{count} policies, {name}: {} lists, {} rules, {} addresses",
                rules.lists(1).count(),
                rules.rules(1).count(),
                rules.addresses(1).count()
            );
            let mut group = criterion.benchmark_group(name);
            group.bench_with_input(BenchmarkId::new("compile", count), &config, |bencher, config| {
                bencher.iter(|| black_box(config.rules(now).expect("within the bounds")));
            });
            group.bench_with_input(
                BenchmarkId::new("file to configuration", count),
                &text,
                |bencher, text| {
                    bencher.iter(|| black_box(configuration(text)));
                },
            );
        }
    }
    criterion.final_summary();
}
