"""Benchmarks: informational. `make bench` prints tables and goals and exits 0 whatever they say; with `--gate` a
missed goal is an exit status of 1. `python -m tests.benchmarks --help` lists the options.

Traps of measuring lazy memory, and what is done here about each:

- **Order and drift.** The same case differs by 15 to 25 % between series, and by more on a busy machine. Every round
  runs every case once, each round from another starting case; ratios are taken to the textbook loop *of the same
  round*, and the medians of figures and ratios are reported. The load average is in the JSON: do not trust figures of
  a busy machine.
- **Folios of the page cache.** A private mapping of a file that was written in large pieces is up to ten times
  cheaper than one of the same bytes in 4 KiB folios. The warm file is written in 4 KiB pieces; /proc/kpageflags says
  which folios came of it (root only), and mincore before and after every case that it is resident. Cold cases use a
  second file, evicted by POSIX_FADV_DONTNEED and checked with mincore to be gone.
- **History of free memory.** The host takes back blocks that have been free for seconds; touching those is some 20 %
  dearer. So the same prelude (populate and free as much anonymous memory as a VM has) runs right before every case.
- **First use.** Every case starts its server and its VM anew, so the first use of each page of the file, of page tables
  and of code is in the figure of all of them, the textbook loop included.
- **Placement.** A fault answered on the toucher's core costs a third of one answered on the other. "Free" means that
  neither toucher nor textbook loop is pinned; every other placement is a case of its own.
- **Which clock, whose CPU.** Touches are timed in C++ around the touching loop alone: not its threads' creation, not
  the comparison of pages. Many VMs are timed by the wall from the first request to the last answer, also the single
  VM they are compared with. Handler CPU is what all threads of the server's process ran between the first and the
  last touch, by schedstat in nanoseconds; the server has a process of its own, the textbook loop likewise.
  /proc/PID/stat would count in ticks of 10 ms. The wake-up of a toucher is on nobody's bill.
- **What else runs.** Two processors are few: toucher and server fill both, and whatever else runs delays the pair that
  works on two processors more than the pair that shares one. Somebody who empties the page cache meanwhile is noticed
  and the case repeated; somebody who computes is not: look at the load averages.
- **Interpreters.** Python starts and stops what is measured and is not in it, but for the Python source
  (failing/...).
- **Sequential is flattery.** Fault-around wins sequentially whatever it wastes: every plan is also touched at random,
  a tenth of the pages without repetition, and pages installed but never touched are counted as wasted.
- **Wrong is fast.** Every touched page is compared with the memory file after each case, outside the timed part.
- **Zeros are cheap.** The memory file has no zero page at all.
- **A few hundredths** are less than what lies between two cases of one round. What is to be that close (run/...,
  capture/...) takes turns of milliseconds with its baseline, on the same vCPU and thread; its ratio is to that one.
  What C++ answers is timed by the thread's processor time: a turn that lost the processor says nothing of either loop.
  The guest runs at CPL 3, so that no emulator's time dilutes the ratio, and reads back what it must find.
- **Tracing** is measured twice: its part of the fault path alone (trace/loop-..., a loop in C++ whose ring is emptied
  outside the timed part), and a server whose records a thread of it takes meanwhile, which costs processor time too.
- **Mappings are touched by other code** (NumPy's take, about 5 ns a page, no clock per touch) than the stand-in's
  touches (about 50 ns, which includes the clock), so below 0.1 us a page the two are not comparable.
"""
