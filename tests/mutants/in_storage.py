"""Planted bugs of the store, of the commit, of what a start reads, and of copies. It runs nothing."""

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "confirm before sync",
        "messages leave when their rows are written, and the sync never comes",
        "zbroker/commit.py",
        "            if self._sync:\n",
        "            if self._sync and self._completed:\n",
        (
            "tests/crashpoints/test_steps.py::test_a_broker_that_dies_at_a_step_loses_and_invents_nothing",
            "tests/crashpoints/test_disk_errors.py::test_nothing_is_confirmed_after_a_failed_sync",
        ),
        by_seeds=True,
    ),
    Mutant(
        "send before the commit",
        "the messages of a tick leave a turn before its rows are written",
        "zbroker/engine.py",
        "        self._commit.submit(self.core.finish(drained=drained))\n"
        "        outgoing: list[Outgoing] = []\n"
        "        for tick in self._commit.completed():\n"
        "            self.core.committed(tick)\n",
        '        late = self.__dict__.pop("late", None)\n'
        "        if late is not None:\n"
        "            self._commit.submit(late)\n"
        "            for tick in self._commit.completed():\n"
        "                self.core.committed(tick)\n"
        "        self.late = self.core.finish(drained=drained)\n"
        "        outgoing: list[Outgoing] = []\n"
        "        for tick in [self.late]:\n",
        (
            "tests/test_local_broker.py::test_the_broker_may_die_at_any_time",
            "tests/crashpoints/test_steps.py::test_a_broker_that_dies_at_a_step_loses_and_invents_nothing",
        ),
    ),
    Mutant(
        "a full disk confirms",
        "a write that was refused for space counts as done",
        "zbroker/commit.py",
        "                self.refusals += 1\n",
        "                self.refusals += 1\n                return\n",
        ("tests/system/test_disks.py::test_a_disk_that_stays_full_ends_the_broker",),
    ),
    Mutant(
        "a failed sync is passed over",
        "the broker goes on after a sync that failed, and confirms",
        "zbroker/storage/rocks.py",
        '            raise self._fail("a sync", error) from error\n',
        "            return\n",
        (
            "tests/system/test_disks.py::test_a_failed_sync_ends_the_broker_and_nothing_was_confirmed",
            "tests/crashpoints/test_disk_errors.py::test_nothing_is_confirmed_after_a_failed_sync",
        ),
    ),
    Mutant(
        "default recovery mode",
        "a flipped bit in the log drops what was confirmed behind it, and the broker starts",
        "zbroker/storage/tuning.py",
        "DBRecoveryMode.tolerate_corrupted_tail_records\n",
        "DBRecoveryMode.point_in_time\n",
        ("tests/storage/test_recovery.py::test_a_bit_flipped_within_the_confirmed",),
    ),
    Mutant(
        "the watermark is not checked",
        "a broker starts whose log lacks what was confirmed",
        "zbroker/storage/rocks.py",
        "    if reached < confirmed:\n",
        "    if reached < 0:\n",
        ("tests/storage/test_recovery.py::test_the_newest_log_is_gone",),
    ),
    Mutant(
        "the watermark before the sync",
        "after a crash the watermark may be ahead of the log, and a sound directory does not open",
        "zbroker/storage/rocks.py",
        "            self._sync_log(True)\n",
        "            self._watermark.record(sequence, now=True)\n            self._sync_log(True)\n",
        ("tests/storage/test_recovery.py::test_the_watermark_does_not_go_ahead_of_the_log",),
    ),
    Mutant(
        "the watermark is never synced",
        "after a loss of power the watermark is as old as the last start",
        "zbroker/storage/watermark.py",
        "        if now or time.monotonic() - self._synced_s >= SYNC_EVERY_S:\n",
        "        if not SYNC_EVERY_S:\n",
        ("tests/storage/test_recovery.py::TestWatermark::test_it_is_synced_each_second_and_on_demand",),
    ),
    Mutant(
        "logs are not tracked",
        "a log file that is gone from between the others is missed by nobody",
        "zbroker/storage/tuning.py",
        "track_and_verify_wals_in_manifest=true",
        "track_and_verify_wals_in_manifest=false",
        (
            "tests/crashpoints/test_logs.py::test_logs_that_are_missing_refuse",
            "tests/storage/test_recovery.py::test_any_log_between_the_others_is_missed",
        ),
    ),
    Mutant(
        "a tick in pieces",
        "each keyspace of a tick is written by itself, and a crash leaves some of them",
        "zbroker/storage/rocks.py",
        "        batch = self._batch(rows, ranges)\n"
        "        try:\n            self._commit(batch, self._write_options)\n",
        "        try:\n"
        "            for space in rows:\n"
        "                self._commit(self._batch({space: rows[space]}, []), self._write_options)\n"
        "            self._commit(self._batch({}, ranges), self._write_options)\n",
        (
            "tests/storage/test_recovery.py::test_a_write_that_a_crash_cut_is_there_whole_or_not_at_all",
            "tests/storage/test_conformance.py::test_a_keyspace_that_is_not_one_is_refused_whole",
        ),
    ),
    Mutant(
        "a tick in pieces in SQLite",
        "a write is committed row by row",
        "zbroker/storage/sqlite.py",
        '            writer.execute("BEGIN IMMEDIATE")\n'
        "            for statement, arguments in work:\n"
        "                writer.executemany(statement, arguments)\n",
        "            for statement, arguments in work:\n"
        "                writer.executemany(statement, arguments)\n"
        '            writer.execute("BEGIN IMMEDIATE")\n',
        ("tests/storage/test_sqlite.py::test_the_log_ends_anywhere_beyond_the_confirmed",),
    ),
    Mutant(
        "SQLite without a sync",
        "what is confirmed is in the hands of the operating system only",
        "zbroker/storage/sqlite.py",
        "            os.fdatasync(self._log)\n",
        "",
        ("tests/storage/test_sqlite.py::test_sync_makes_the_log_durable_and_nothing_before_it",),
    ),
    Mutant(
        "a log that stays is only synced",
        "a start beside a backup confirms what an earlier sync that failed may have lost",
        "zbroker/storage/sqlite_file.py",
        "            _write_again(log)\n",
        "",
        ("tests/storage/test_sqlite.py::test_a_start_while_another_program_reads",),
    ),
    Mutant(
        "the view looks past the open tick",
        "the core reads rows as they were before what it decided a moment ago",
        "zbroker/core/tick.py",
        "        for tick in self.ticks:\n            rows = tick.rows[space]\n",
        "        for tick in self.ticks[:-1]:\n            rows = tick.rows[space]\n",
        ("tests/core/test_put.py::test_the_time_of_a_cancelled_job_is_not_taken_from_its_neighbours",),
    ),
    Mutant(
        "epoch not raised",
        "fences begin again after a start",
        "zbroker/core/recovery.py",
        '    state.epoch = int.from_bytes(view.get("meta", rows.META_EPOCH) or b"", "big") + 1\n',
        '    state.epoch = int.from_bytes(view.get("meta", rows.META_EPOCH) or b"", "big") or 1\n',
        ("tests/core/test_liveness.py::test_fences_grow_over_restarts_and_a_lost_commits_fence_never_left",),
        by_seeds=True,
    ),
    Mutant(
        "lose a timer at a start",
        "the first timer is passed over",
        "zbroker/core/recovery.py",
        '    state.timers_from = first[0] if first is not None else b"\\xff"\n',
        '    state.timers_from = first[0] + b"\\0" if first is not None else b"\\xff"\n',
        ("tests/core/test_timers.py::test_what_fell_due_while_the_broker_was_down_is_due_now",),
        by_seeds=True,
    ),
    Mutant(
        "a purge floor is forgotten at a start",
        "jobs that were purged are found until they are swept",
        "zbroker/core/recovery.py",
        "        queue.floor = row.floor\n",
        "",
        ("tests/core/test_queues.py::test_what_a_purge_took_is_void_for_the_next_broker_before_it_is_swept",),
    ),
    Mutant(
        "purged jobs come back at a start",
        "jobs that were purged before a restart are delivered after it",
        "zbroker/core/recovery.py",
        "empty=False, floor=row.floor, window",
        "empty=False, floor=0, window",
        ("tests/core/test_queues.py::test_what_a_purge_took_is_void_for_the_next_broker_before_it_is_swept",),
    ),
    Mutant(
        "a pause is forgotten at a start",
        "a queue that somebody paused delivers again",
        "zbroker/core/recovery.py",
        "        queue.paused = row.paused\n",
        "",
        (
            "tests/core/test_queues.py::test_a_paused_queue_takes_jobs_and_settlements_and_delivers_nothing_even_after_a_restart",
        ),
    ),
    Mutant(
        "heads are forgotten at a start",
        "where jobs of a key run in order, the next one overtakes one that waits to be tried again",
        "zbroker/core/recovery.py",
        "    _read_heads(state)\n",
        "",
        ("tests/core/test_groups.py::test_a_job_that_comes_again_goes_before_the_others_of_its_key",),
    ),
    Mutant(
        "long orders end with the process",
        "a purge, replay, drop or backfill does not go on after a start",
        "zbroker/core/recovery.py",
        "        works.go_on(state, number, works.Work(*rows.unpack(value)))\n",
        "",
        ("tests/core/test_queues.py::test_a_purge_goes_on_after_a_restart",),
    ),
    Mutant(
        "history forgets ends",
        "what was finished before a start is not found after it",
        "zbroker/core/history.py",
        "                index.block_of.setdefault(identifier, key)\n",
        "                index.block_of.get(identifier)\n",
        ("tests/core/test_history.py::test_what_was_finished_is_found_again_after_a_restart",),
    ),
    Mutant(
        "large results are lost",
        "a result above 4 KiB is gone when it is asked for",
        "zbroker/core/history.py",
        '                state.tick.rows["results"][ids[position]] = result\n',
        "",
        ("tests/core/test_settle.py::test_a_large_result_is_kept_and_removed_with_its_job",),
    ),
    Mutant(
        "a ghost comes alive",
        "the ready entry of a job that waits for a time counts",
        "zbroker/core/state.py",
        "        return change.state is JobState.READY and change.sequence == sequence\n",
        "        return change.state in (JobState.READY, JobState.SCHEDULED) and change.sequence == sequence\n",
        (
            "tests/core/test_retry.py::test_a_job_that_waits_for_its_backoff_is_not_met_in_its_old_place_after_a_restart",
        ),
        by_seeds=True,
    ),
    Mutant(
        "an old place counts",
        "a job that was replayed is in its old place as well",
        "zbroker/core/state.py",
        "        return change.state is JobState.READY and change.sequence == sequence\n",
        "        return change.state is JobState.READY\n",
        ("tests/core/test_retry.py::test_a_replayed_job_has_left_its_old_place_even_after_a_restart",),
    ),
    Mutant(
        "a delivery that is over counts again",
        "after a start a job is leased by a delivery that it came out of",
        "zbroker/core/rows.py",
        " and change.sequence == self.sequences[n] and change.fence < fence\n",
        " and change.sequence == self.sequences[n]\n",
        ("tests/core/test_liveness.py::test_a_name_counts_for_its_own_delivery_only",),
    ),
    Mutant(
        "a backup without the watermark",
        "a copy that lacks confirmed data passes for a whole one",
        "zbroker/storage/backup.py",
        '    confirmed = read_watermark(source / "WATERMARK") or 0\n',
        "    confirmed = 0\n",
        ("tests/storage/test_backup.py::test_data_that_lacks_what_was_confirmed_is_not_copied_as_if_it_were_whole",),
    ),
    Mutant(
        "a copy is not of one moment",
        "tables that went while the copy was made are missing in it",
        "zbroker/storage/rocks_copy.py",
        "        return _manifest(source) == before\n",
        "        return True\n",
        ("tests/storage/test_backup.py::test_files_that_go_while_they_are_linked",),
    ),
    Mutant(
        "restored with the fences of the original",
        "a settlement from before a restore counts after it",
        "zbroker/copies.py",
        "RAISE_EPOCH = 1000\n",
        "RAISE_EPOCH = 0\n",
        ("tests/system/test_copies.py::test_fences_begin_beyond_what_the_original_gave_since",),
    ),
    Mutant(
        "a fork fires schedules",
        "jobs of production's schedules come twice",
        "zbroker/copies.py",
        "schedule._replace(paused=True, declared=False)",
        "schedule._replace(declared=False)",
        ("tests/system/test_copies.py::test_a_fork_runs_beside_the_original_and_reaches_nothing_of_it",),
    ),
)
