//! What the kernel's numbers mean here, and what to do about them.

use std::io;

use sekisho_esp::sa::SaError;

use super::socket::Refusal;

/// An error of the kernel with what was tried and the remedy.
pub(super) fn explained(tried: impl Into<String>, refusal: Refusal) -> SaError {
    let mut context = tried.into();
    if let Some(text) = &refusal.text {
        context += &format!(" (the kernel says: {text})");
    }
    let errno = refusal.errno();
    if let Some(remedy) = remedy(errno) {
        context += &format!("; {remedy}");
    }
    SaError::Io { context, source: refusal.error }
}

/// What to do about an error number of XFRM.
fn remedy(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM | libc::EACCES => "run the daemon as root, or with CAP_NET_ADMIN",
        // The socket's own: there is no XFRM at all.
        libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => {
            "this kernel has no IPsec, or no ESP for this family: load the modules xfrm_user, esp4 and esp6 \
             (CONFIG_XFRM_USER, CONFIG_INET_ESP, CONFIG_INET6_ESP), or write datapath = \"engine\""
        }
        libc::ENOSYS | libc::ENOENT => {
            "this kernel does not have the algorithm: load its module (gcm, chacha20poly1305, cbc, sha256, sha512, seqiv, \
             echainiv, authenc), configure another `esp` proposal, or write datapath = \"engine\""
        }
        libc::EOPNOTSUPP => {
            "this kernel lacks the feature: load the module xfrm_interface (CONFIG_XFRM_INTERFACE), or write \
             datapath = \"engine\""
        }
        libc::EEXIST => {
            "another SA or policy with this name is there already; `ip xfrm state` and `ip xfrm policy` list them"
        }
        _ => return None,
    })
}

/// The kernel has done otherwise than it was told.
pub(super) fn otherwise(tried: &str, what: &str) -> SaError {
    SaError::Io {
        context: format!(
            "{tried}: the kernel has {what} otherwise than written; report this kernel's version"
        ),
        source: io::Error::from(io::ErrorKind::InvalidData),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_error_names_the_remedy() {
        for (errno, remedy) in [
            (libc::EPERM, "CAP_NET_ADMIN"),
            (libc::EPROTONOSUPPORT, "esp4"),
            (libc::ENOSYS, "another `esp` proposal"),
            (libc::EOPNOTSUPP, "xfrm_interface"),
            (libc::EEXIST, "ip xfrm state"),
        ] {
            let refusal =
                Refusal { error: io::Error::from_raw_os_error(errno), text: Some("the words".into()) };
            let told = explained("cannot do it", refusal).to_string();
            assert!(told.starts_with("cannot do it (the kernel says: the words); "), "{told}");
            assert!(told.contains(remedy), "{told}");
        }
    }
}
