// SPDX-License-Identifier: Apache-2.0
//! A time of day that a test can change, for one process: a small library that answers `clock_gettime` in place of the
//! C library. The monotonic clock stays the kernel's, as after a real change of the time of day.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The variable that names the file with the offset.
const VARIABLE: &str = "LLB_LAB_CLOCK";

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = {0};
    const char *path = getenv("LLB_LAB_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += offset();
    return result;
}
"#;

/// The library and the file with the offset.
#[derive(Debug)]
pub struct FalseClock {
    library: PathBuf,
    offset: PathBuf,
}

impl FalseClock {
    /// Builds the library in `folder`. The clock is right at first.
    ///
    /// # Errors
    /// There is no C compiler, or it failed.
    pub fn new(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("false_clock.c"), folder.join("false_clock.so"));
        fs::write(&source, SOURCE)?;
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
        let built = built.context("cannot run cc")?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let clock = Self { library, offset: folder.join("false_clock.offset") };
        clock.jump(0)?;
        Ok(clock)
    }

    /// From now on the process sees a time of day that is so many seconds ahead of the true one.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        let new = self.offset.with_extension("new");
        fs::write(&new, seconds.to_string())?;
        // A process that reads it at this moment sees the old or the new one.
        fs::rename(&new, &self.offset).context("cannot set the false clock")
    }

    /// The environment variables of a process with this clock.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), (VARIABLE, &self.offset)]
    }
}
