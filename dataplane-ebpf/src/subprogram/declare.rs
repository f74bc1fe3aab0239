//! How subprograms are declared.

/// Declares a global function. The typed way to call it stands behind it.
macro_rules! subprogram {
    (
        $(#[$doc:meta])*
        fn $name:ident($($parameter:ident: $type:ty),*) -> u32 $body:block
    ) => {
        $(#[$doc])*
        #[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
        #[inline(never)]
        pub(super) extern "C" fn $name($($parameter: $type),*) -> u32 $body
    };
}

/// Declares subprograms around steps that have all they need in the scratch, and with a frame the typed way to call it.
macro_rules! step {
    (fn $name:ident() = $step:path) => {
        subprogram! {
            fn $name(scratch: *mut Scratch) -> u32 {
                // SAFETY: as above.
                match unsafe { scratch.as_mut() } {
                    Some(scratch) => done($step(scratch)),
                    None => number(Err(Verdict::DropInternal)),
                }
            }
        }
    };
    (fn $name:ident, $call:ident($context:ty as $frame:ty) = $step:path) => {
        subprogram! {
            fn $name(ctx: *mut $context, scratch: *mut Scratch) -> u32 {
                // SAFETY: as above.
                match unsafe { scratch.as_mut() } {
                    Some(scratch) => done($step(&<$frame>::from_ptr(ctx), scratch)),
                    None => number(Err(Verdict::DropInternal)),
                }
            }
        }

        #[doc = concat!("[`", stringify!($step), "`].")]
        #[inline(always)]
        pub(crate) fn $call(frame: &$frame, scratch: &mut Scratch) -> Result<(), Verdict> {
            judged($name(frame.as_ptr(), scratch)).map(|_| ())
        }
    };
}
