//! Builds LuaJIT from the sources in the `luajit-src` crate, with changes that must not depend on the folder, the
//! environment or the flags of the build:
//!
//! - `LUAJIT_ENABLE_CHECKHOOK`. Without it a script that loops in compiled code can't be stopped
//!   (`src/script/watchdog.rs`).
//! - Unwinding by the system (`LUAJIT_UNWIND_EXTERNAL`, with the tables that it wants). So a Lua error runs the destructors of the
//!   native functions that it passes (`src/script/push.rs`); LuaJIT's own unwinding would skip them, and without tables the first
//!   error would end the process.
//! - A fix of `string.format("%f")`, which prints garbage for numbers below about 1e-153.
//! - A bound for `table.insert(t, position, value)`, which runs for seconds when the position is far below zero.
//! - Errors that no `pcall` in Lua catches (`connmix_set_end_all`), for a handler that is stopped. With thousands of
//!   nested `pcall`s, raising its error again after each one takes seconds.
//! - Which thread's native function runs (`connmix_native`), for the stack of a worker that does not go on
//!   (`src/script/snapshot.rs`).
//! - A bound for `string.format("%s")` whose `__tostring` calls it again: unwinding takes time quadratic in the
//!   nesting.
//! - The size of a function that is freed after its upvalues could not be allocated. LuaJIT counted it as smaller than
//!   it is: each time a bit more of the VM's memory seemed to be in use for good, and the allocator was told a wrong
//!   size.
//!
//! All of them go in through a makefile that make reads before LuaJIT's own (`MAKEFILES`). Its `override` lines win
//! over the environment, which make is told to prefer otherwise.

use std::path::Path;
use std::{env, fs};

/// LuaJIT's folder `src` is the working directory where make reads this.
///
/// The fix: at most 99 digits can be asked for after the point, so a number below 2^-400 (exponent field below 623) is
/// zero in all of them. LuaJIT's own buffer holds too few digits for such numbers.
const MAKEFILE: &str = r#"
override CFLAGS += -DLUAJIT_ENABLE_CHECKHOOK -DLUAJIT_UNWIND_EXTERNAL -funwind-tables

FOUND := int32_t e = (t.u32.hi >> 20) & 0x7ff, ndebias = 0;
ifeq ($(shell grep -cF '$(FOUND)' lj_strfmt_num.c),1)
IGNORED := $(shell sed -i.orig 's/, ndebias = 0;/&\
    if (!(sf \& STRFMT_T_FP_E) \&\& e < 623) { t.u64 \&= U64x(80000000,00000000); n = t.n; e = 0; }/' lj_strfmt_num.c)
endif
ifneq ($(shell grep -c 'e < 623' lj_strfmt_num.c),1)
$(error lj_strfmt_num.c of this LuaJIT is not the one that build.rs knows how to correct)
endif

SHIFT := for (n = lj_lib_checkint(L, 2); i > n; i--) {
ifeq ($(shell grep -cF '$(SHIFT)' lib_table.c),1)
IGNORED := $(shell sed -i.orig 's/for (n = lj_lib_checkint(L, 2); i > n; i--) {/n = lj_lib_checkint(L, 2);\
    if (n < 0) lj_err_arg(L, 2, LJ_ERR_IDXRNG);\
    for (; i > n; i--) {/' lib_table.c)
endif
ifneq ($(shell grep -cF 'if (n < 0) lj_err_arg(L, 2, LJ_ERR_IDXRNG);' lib_table.c),1)
$(error lib_table.c of this LuaJIT is not the one that build.rs knows how to bound)
endif

UNSET := fn->l.nupvalues = 0;
ifeq ($(shell grep -cF '$(UNSET)' lj_func.c),1)
IGNORED := $(shell sed -i.orig 's/fn->l.nupvalues = 0;.*/fn->l.nupvalues = (uint8_t)pt->sizeuv;/' lj_func.c)
endif
ifneq ($(shell grep -cF 'nupvalues = (uint8_t)pt->sizeuv;' lj_func.c),1)
$(error lj_func.c of this LuaJIT is not the one that build.rs knows how to correct)
endif

ifneq ($(shell grep -c 'connmix_end_all' lj_err.c),2)
IGNORED := $(shell sed -i.orig -e 's/^static void \*err_unwind/_Static_assert(LJ_UNWIND_EXT, "errors run destructors");\
static __thread int connmix_end_all;\
LUA_API void connmix_set_end_all(int on) { connmix_end_all = on; }\
LUA_API lua_State *connmix_native(lua_State *L) {\
  return G(L)->vmstate == ~LJ_VMST_C ? gco2th(gcref(G(L)->cur_L)) : NULL;\
}\
&/' -e '/^    case FRAME_PCALLH:/{n;s/^      if (errcode) {/      if (connmix_end_all) {\
        frame = frame_prevd(frame);\
        break;\
      }\
&/}' lj_err.c)
endif
ifneq ($(shell grep -c 'connmix_end_all' lj_err.c),2)
$(error lj_err.c of this LuaJIT is not the one that build.rs knows)
endif

ifneq ($(shell grep -c 'connmix_top' lj_strfmt.c),1)
IGNORED := $(shell sed -i.orig -e '/Call __tostring metamethod once/s/^/          static __thread char *connmix_top;\
          char connmix_here;\
          if (\&connmix_here > connmix_top) connmix_top = \&connmix_here;\
          if (connmix_top - \&connmix_here > 262144) lj_err_msg(L, LJ_ERR_STKOV);\
/' lj_strfmt.c)
endif
ifneq ($(shell grep -c 'connmix_top' lj_strfmt.c),1)
$(error lj_strfmt.c of this LuaJIT is not the one that build.rs knows)
endif
"#;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CFLAGS");
    let out = env::var_os("OUT_DIR").expect("cargo names the folder to build in");
    let makefile = Path::new(&out).join("luajit.mk");
    fs::write(&makefile, MAKEFILE).expect("the folder to build in can be written to");
    // SAFETY: a build script that has started no other thread.
    unsafe { env::set_var("MAKEFILES", &makefile) };
    let built = luajit_src::Build::new().build();
    // For tests of what LuaJIT does outside the sandbox.
    println!("cargo:rustc-env=LUAJIT={}", Path::new(&out).join("luajit-build/src/luajit").display());
    println!("cargo:rustc-link-search=native={}", built.lib_dir().display());
    for library in built.libs() {
        // The whole archive: the code that needs it comes later on the linker's command line, and not every linker
        // looks back.
        println!("cargo:rustc-link-lib=static:+whole-archive={library}");
    }
}
