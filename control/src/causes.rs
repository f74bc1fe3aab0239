//! An error with its causes, in one sentence.

/// Each cause once: many of our errors name theirs themselves, with the remedy behind it.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {source}; are you root?")]
    struct Refused {
        #[source]
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("permission denied");
        let error = Err::<(), _>(Refused { source }).context("port lan1").expect_err("refused");
        assert_eq!(told(&error), "port lan1: cannot open it: permission denied; are you root?");
        assert_eq!(told(&anyhow::anyhow!("no cause")), "no cause");
    }
}
