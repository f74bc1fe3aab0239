//! Wire formats (RFC 7296 section 3).
