//! The engine against itself: two endpoints, a simulated network between them, virtual time.

mod collide;
mod establish;
mod hostile;
mod nat;
mod pair;
mod pki;
mod refuse;
mod rekey;
mod schedule;
mod setup;
