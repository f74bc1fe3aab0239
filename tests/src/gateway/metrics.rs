//! `/metrics` over plain HTTP, as Prometheus scrapes it.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Sekishod;
use super::settings::METRICS_PORT;
use crate::traffic::http;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Sekishod {
    /// Scrapes the gateway's metrics, at the gateway itself: they are served on loopback.
    pub fn metrics(&self) -> Result<Metrics> {
        http::get(&self.namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)), "/metrics")
            .map(Metrics)
    }
}

impl Metrics {
    /// A sample by its name and some of its labels, in any order; 0 if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .find_map(|rest| {
                let (set, value) = match rest.strip_prefix('{') {
                    Some(rest) => rest.split_once('}')?,
                    None => ("", rest),
                };
                let has = |(key, value): &(&str, &str)| {
                    set.split(',').any(|label| label == format!("{key}=\"{value}\""))
                };
                (labels.iter().all(has) && value.starts_with(' ')).then(|| value.trim().parse().ok())?
            })
            .unwrap_or_default()
    }

    /// Names of all samples.
    pub fn names(&self) -> Vec<&str> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
    }

    /// Lets Prometheus' own tool judge the page; `None` where it is not installed.
    pub fn judged_by_promtool(&self) -> Result<Option<()>> {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("starting promtool"),
        };
        child
            .stdin
            .take()
            .context("promtool has no stdin")?
            .write_all(self.0.as_bytes())
            .context("writing to promtool")?;
        let output = child.wait_with_output().context("waiting for promtool")?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !said.trim().is_empty() {
            bail!("promtool: {}\n{said}", output.status);
        }
        Ok(Some(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let page = Metrics(
            "# HELP a_total x\n# TYPE a_total counter\na_total{k=\"policy\",p=\"lan1\"} 7\na_total{k=\"ttl\",p=\"lan1\"} 2\na 1.5\n"
                .into(),
        );
        assert_eq!(page.value("a_total", &[("p", "lan1"), ("k", "ttl")]), 2.0);
        assert_eq!(page.value("a_total", &[("k", "policy")]), 7.0);
        assert_eq!(page.value("a_total", &[("k", "tt")]), 0.0);
        assert_eq!(page.value("a", &[]), 1.5);
        assert_eq!(page.names(), ["a_total", "a_total", "a"]);
    }
}
