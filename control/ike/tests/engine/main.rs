//! The engine against itself: two endpoints, a simulated network between them, virtual time.

mod addresses;
mod collide;
mod establish;
mod hostile;
mod ids;
mod insider;
mod inventory;
mod line;
mod liveness;
mod mobike;
mod multiple;
mod nat;
mod network;
mod pair;
mod pki;
mod reauth;
mod refuse;
mod rekey;
mod resources;
mod revocation;
mod schedule;
mod select;
mod setup;
mod unique;
