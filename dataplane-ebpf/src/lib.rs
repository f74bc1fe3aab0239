//! Pure logic of the packet's way.
#![no_std]
