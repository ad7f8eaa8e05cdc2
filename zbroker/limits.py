"""The broker's own limits: what it keeps in memory and does in one turn. Each has a unit, a default and a reason.

What peers can run into has its home in ``zclient/protocol/limits.py``; settings that users change are in ``config.py``.
"""

TURN_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100)
"""Upper bounds by which `stats` counts the work of turns. No command may hold the loop for more than 10 ms."""

TURN_MESSAGES = 400
"""Messages received in one turn. More would make the commit of the first wait for the last."""

TURN_BYTES = 32 * 1024 * 1024
"""Bytes received in one turn: bounds a tick's memory when messages are large."""

TURN_DELIVERIES = 4000
"""Jobs handed out in one turn; a queue with more stays hot and goes on in the next."""

DELIVERY_BYTES = 8 * 1024 * 1024
"""Payload bytes after which one dispatch of a queue stops; it goes on in the next turn."""

TURN_RECEIVE_MS = 1
"""Time after which a turn receives no more, or as long as the sync before took, if that is more: on a slow disk a
commit must carry much. What a turn takes is answered all together. If it took all that a peer may have on its way,
broker and peer would wait for each other in turn; and little is still in the processor's caches when it is written."""

TURN_STEPS = 4
"""Steps of slow work (listing, purge, replay, drop, sweeps) in one turn; a step handles at most `STEP_ROWS` rows."""

STEP_ROWS = 64
"""Rows in one step of slow work: about half a millisecond."""

STEP_BYTES = 1024 * 1024
"""Bytes of kept publications after which a step that reads them ends, however few they are."""

TURN_TIMERS = 2000
"""Jobs whose time came that one turn makes ready."""

EXPIRY_WEIGHT = 3
"""So many of them one that expires counts for: it costs some 12 us, and one that becomes ready 5."""

SCHEDULE_WEIGHT = 20
"""Likewise each schedule that fires, and each job that it makes."""

STALE_LEASES = 1000
"""Deadlines of settled deliveries that are kept, beyond as many as there are deliveries, before they are sorted out."""

TURN_RETURNS = 500
"""Jobs that one turn takes from a lost worker: a return reads and writes several rows."""

BLOCK_JOBS = 256
"""Entries in one row of the `ready` and `timers` keyspaces: so many share the cost of a row, and are read together."""

WINDOW_JOBS = 8192
"""Entries of one lane that wait in memory. The rest is on disk and read in blocks when the window runs out."""

RESIDENT_JOBS = 200_000
"""Entries of all lanes together that wait in memory: about 20 MB."""

RESIDENT_LANES = 200_000
"""Lanes known in memory. Beyond it a queue finds the others by walking over the disk, in turn."""

FRESH_BYTES = 48 * 1024 * 1024
"""Records kept in memory from their arrival to their first delivery; beyond it they are read back from disk."""

LOAD_BLOCKS = 8
"""Blocks read from disk at once when a lane's window is empty."""

TURN_SCANS = 200
"""Scans of the disk by one queue's ring in one turn, some 30 us each: a walk over many lanes goes on in the next."""

GHOSTS_PER_TURN = 4000
"""Entries of a queue that count no more and are skipped in one turn, before other queues have theirs."""

MAX_PEERS = 20_000
"""Peers known at a time."""

MAX_QUEUES = 10_000
"""Queues of one broker: each is kept in memory, with its counters and the ring of its lanes."""

MAX_SCHEDULES = 10_000
"""Schedules of one broker: each is a row, and a listing tells them all."""

MAX_BATCHES = 1_000_000
"""Batches and workflows that are kept at a time. They are rows on disk, and a day after their end they go."""

BATCH_KEPT_MS = 24 * 3600 * 1000
"""How long a batch or a workflow without dead jobs outlives its end: a day to read its results in."""

STAGED_KEPT_MS = 3600 * 1000
"""How long the parts of a workflow wait for the next one: as long as a peer may send it again."""

WORKFLOW_AT_ONCE = 2000
"""What a workflow may weigh (jobs, pairs of job and step, groups, steps) to be stored in the turn in which it comes;
a larger one is stored in slices."""

SLICE_JOBS = 128
"""Jobs, and pairs of job and step, of a workflow in one row that is laid aside: one step of slow work stores them."""
MAX_BINDINGS = 100_000
"""Bindings of one broker: each is kept in memory, about a kilobyte."""

MAX_KEPT_TOPICS = 100
"""Patterns whose publications are kept: reading looks at the logs of all of them together."""

MATCH_STEPS = 20_000
"""Nodes and filters that are looked at for one publication, 5 to 10 ms; one that has more is refused. Also how much
of what was found is remembered for the next publication."""

KNOWN_TOPICS = 1000
"""Topics whose place among the patterns is remembered."""

NUMBER_CHARS = 40
"""A header's text longer than this is no number."""

MAX_TAILS = 1000
"""Tails of all peers: each publication is counted for those that take it."""

TOLD_COPIES = 10_000
"""Publications of one PUBLISH, counted for each tail that takes it; a batch that has more is sent in smaller ones."""

TRIM_ROWS = 64
"""Kept publications that are forgotten at once; what is left follows in the next turns."""

TRIM_WEIGHT = 4
"""So many jobs that become ready each of them counts for."""

TRIM_EVERY_MS = 1000
"""How often a kept topic is looked at for what is too old."""

PAGE_LOOKED = 5000
"""Kept publications that are looked at for one answer; it may then be empty, and says where the next begins."""

BACKFILL_PAUSE_MS = 500
"""When a backfill tries again that met a full queue, or a disk without room."""

MAX_WORKS = 1000
"""Listings and other slow work under way at a time; more are refused with `busy`."""

MAX_GROUPS = 1000
"""Different things that dead jobs died of, as an answer tells them; of more the rarest are left out."""

WHY_BLOCKS = 64
"""Blocks of a lane that `why` counts to tell a job's position: some 16,000 jobs, and less than a millisecond."""

WHY_LOOKED = 20_000
"""Leased jobs of the queue among which `why` looks for those that hold a key: a few milliseconds."""

CIRCLE_JOBS = 256
"""Jobs and steps looked at for a circle when a job of a batch waits for others: a few milliseconds."""

TURN_CHILDREN = 128
"""Children of parents that are over, looked at in one turn: a few milliseconds. The rest follow in the next turns."""

WHY_NAMED = 10
"""Jobs and workers that `why` names; of more it tells the number."""

MAX_ATTEMPT_LOG = 50
"""Attempts whose errors a job keeps, the latest ones. The count of attempts goes on."""

READ_BACK_JOBS = 200_000
"""Finished jobs whose place is read back before a broker serves, some 0.2 s; the rest follows in slices, and until then
no new jobs are taken, since one of them may be finished already."""

INLINE_RESULT_BYTES = 4096
"""A larger result lies in a row of its own, not in the block of finished jobs."""

RECENT_MS = 10_000
"""How long the end of a job of which nothing is kept stays in memory: who has just sent it may ask for it yet."""

RECENT_JOBS = 100_000
"""Ends of that kind at a time, at most: some 20 MB."""

RECENT_BYTES = 32 * 1024 * 1024
"""Bytes of their results."""

LATE_TURN_MS = 500
"""A turn later than this is the broker's own stall: deadlines move by the gap."""

CUT_MS = 6_000
"""A stall so long may have cost connections: peers give up after 8 s of silence, and pings are 2 s apart."""

PRODUCER_KEPT_MS = 24 * 3600 * 1000
"""How long the batch numbers of a producer outlive its last batch: longer than any resend (`RESEND_LIMIT_MS`)."""

CLIENT_PROBE_MS = 5000
"""How often a peer that takes no jobs is probed, so that the broker forgets those that left without a word."""

READER_RETURN_MS = 10_000
"""How long a stream waits for a reader: for one whose connection was lost to come back, also after a start of the
broker. A blocking client comes back when it is next called, so this is longer than a worker's time."""

WATCH_MS = 20
"""Least time between two looks at all peers."""

PEER_BYTES = 64 * 1024 * 1024
"""Bytes of large messages that wait in libzmq for one peer. Beyond it the peer gets none until it has read: a delivery
returns, and what is an answer is asked for again."""

CONGESTED_MS = 100
"""How long a worker whose connection is full gets no delivery."""
