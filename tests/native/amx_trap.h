// The tile instructions of AMX for processors without: each raises SIGILL there, and the handler does
// what it would have done. So the machine code under test is the very one that AMX would run.
//
// Written from the Intel SDM (volume 2, chapters TILE* and TDP*, and "Exception class AMX-E*") alone:
// palette 1, tiles of up to 16 rows of 64 bytes, no restart in the middle of a tile. What the manual
// says is undefined, or wants refused, ends the process with a message and status 3.
#pragma once

namespace gt::test {

// From now on, in every thread.
void trap_amx();

// How many instructions were emulated up to now.
long trapped_amx_instructions();

}  // namespace gt::test
