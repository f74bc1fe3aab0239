//! Names that an administrator chooses: they end up in paths, in metrics and on the command line.

use toml::Spanned;

use super::diagnostic::Report;

/// Longest name in bytes.
const NAME_MAX: usize = 32;

/// The name `gateway` means the gateway itself.
pub(super) const GATEWAY: &str = "gateway";

/// Reports a name that cannot be one; hands it on all the same, so that uses of it are not reported once more.
pub(super) fn read_name(name: Spanned<String>, of: &str, report: &Report) -> Spanned<String> {
    let text = name.get_ref();
    let fits = (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !fits {
        report
            .error(name.span(), format!("\"{}\" is no name for {of}", text.escape_debug()))
            .expected(format!("expected 1 to {NAME_MAX} of A–Z a–z 0–9 - _, a letter or digit first"))
            .remedy("choose a name that can stand in a path and in a metric");
    } else if text == GATEWAY && (of == "a port" || of == "a zone") {
        report
            .error(name.span(), format!("`{GATEWAY}` is the gateway itself and cannot name {of}"))
            .remedy("choose another name");
    }
    name
}
