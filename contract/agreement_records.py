"""The agreement of predictions with annotations, in Redis: one entry an annotation, and sums by model version.

Called by: worker.compare (puts), backend (removes, shows), groundcrew. Must not import: Celery, Flask.
Sums are always those of the entries: a change takes the old entry out first, so webhooks may come twice or late.
Example: `AgreementRecords(client).versions(1)[0].total.f1`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import redis

from contract.agreement import Counts, add_up

KEPT_ANNOTATIONS = 5_000  #: of a project: the latest ones; a few hundred bytes each
DELETED_AT_S = 1e15  #: later than any update: what was deleted stays so

# KEYS: entries (hash), their order (sorted set), versions (sorted set). ARGV: prefix of the sums, now, how many entries
# are kept, then for each annotation: its id, when it was updated, its entry or ''.
_PUT = """
local function change(id, body, sign)
  if not body then return end
  local entry = cjson.decode(body)
  if not entry.version then return end
  local sums, worst = ARGV[1] .. 'sums:' .. entry.version, ARGV[1] .. 'worst:' .. entry.version
  for label, counts in pairs(entry.counts) do
    for place, number in ipairs(counts) do
      if number ~= 0 then redis.call('HINCRBY', sums, place .. '|' .. label, sign * number) end
    end
  end
  if sign > 0 then
    redis.call('ZADD', worst, entry.f1, id)
    redis.call('ZADD', KEYS[3], 'NX', ARGV[2], entry.version)
  else
    redis.call('ZREM', worst, id)
  end
  if redis.call('HINCRBY', sums, 'images', sign) <= 0 then
    redis.call('DEL', sums, worst)
    redis.call('ZREM', KEYS[3], entry.version)
  end
end
for place = 4, #ARGV, 3 do
  local id, at, body = ARGV[place], tonumber(ARGV[place + 1]), ARGV[place + 2]
  local old = redis.call('HGET', KEYS[1], id)
  if not old or cjson.decode(old).at <= at then
    change(id, old, -1)
    redis.call('HSET', KEYS[1], id, body)
    redis.call('ZADD', KEYS[2], ARGV[2], id)
    change(id, body, 1)
  end
end
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[3])
if surplus > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) do
    change(id, redis.call('HGET', KEYS[1], id), -1)
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
"""


@dataclass(frozen=True)
class Compared:
    """One annotation beside the prediction that its annotator saw."""

    annotation_id: int
    task_id: int
    updated_s: float  #: Unix time of the annotation's last change
    model_version: str = ""  #: of the prediction; empty: there was none, or the task was skipped
    by_label: Mapping[str, Counts] | None = None

    @property
    def total(self) -> Counts:
        return add_up((self.by_label or {}).values())


@dataclass(frozen=True)
class VersionAgreement:
    """All compared annotations of one model version."""

    model_version: str
    images: int
    by_label: Mapping[str, Counts]  #: the label with the most boxes first

    @property
    def total(self) -> Counts:
        return add_up(self.by_label.values())


class AgreementRecords:
    """The agreement records of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, *, kept: int = KEPT_ANNOTATIONS) -> None:
        self._redis = client
        self._kept = kept
        self._put = client.register_script(_PUT)

    def put(self, project_id: int, compared: Sequence[Compared], *, now_s: float) -> None:
        """Take in what was compared; of one annotation the latest update counts, in whatever order they come."""
        entries = [item for one in compared for item in (one.annotation_id, one.updated_s, _dump(one))]
        if entries:
            keys = [_entries(project_id), f"{_prefix(project_id)}order", _versions(project_id)]
            self._put(keys=keys, args=[_prefix(project_id), now_s, self._kept, *entries])

    def remove(self, project_id: int, annotation_ids: Sequence[int], *, now_s: float) -> None:
        """Take out deleted annotations, for good: a comparison still under way changes nothing any more."""
        gone = [Compared(annotation_id, 0, DELETED_AT_S) for annotation_id in annotation_ids]
        self.put(project_id, gone, now_s=now_s)

    def versions(self, project_id: int, limit: int = 20) -> list[VersionAgreement]:
        """The latest model versions that annotations were compared with, newest first."""
        names = [str(name) for name in self._redis.zrevrange(_versions(project_id), 0, limit - 1)]
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(f"{_prefix(project_id)}sums:{name}")
            return [_read_sums(name, sums) for name, sums in zip(names, pipe.execute(), strict=True) if sums]

    def worst(self, project_id: int, model_version: str, limit: int = 12) -> list[Compared]:
        """Annotations whose predictions agreed least, the worst first; none that agreed in everything."""
        key = f"{_prefix(project_id)}worst:{model_version}"
        ids = [str(i) for i in self._redis.zrange(key, "-inf", "(1", byscore=True, offset=0, num=limit)]
        bodies = self._redis.hmget(_entries(project_id), ids) if ids else []
        return [_load(int(one), str(body)) for one, body in zip(ids, bodies, strict=True) if body is not None]


def _dump(one: Compared) -> str:
    if not one.model_version:
        return json.dumps({"at": one.updated_s})
    counts = {label: astuple(count) for label, count in (one.by_label or {}).items()}
    entry = {"at": one.updated_s, "task": one.task_id, "version": one.model_version, "f1": one.total.f1}
    return json.dumps({**entry, "counts": counts}, ensure_ascii=False)


def _load(annotation_id: int, body: str) -> Compared:
    entry = json.loads(body)
    by_label = {label: Counts(*counts) for label, counts in entry["counts"].items()}
    return Compared(annotation_id, entry["task"], entry["at"], entry["version"], by_label)


def _read_sums(model_version: str, sums: Mapping[object, object]) -> VersionAgreement:
    rows: dict[str, list[int]] = {}
    for field, number in sums.items():
        place, separator, label = str(field).partition("|")
        if separator:
            rows.setdefault(label, [0] * 5)[int(place) - 1] = int(str(number))
    by_label = {label: Counts(*row) for label, row in rows.items() if any(row)}
    ranked = sorted(by_label.items(), key=lambda item: (-item[1].predicted - item[1].added, item[0]))
    return VersionAgreement(model_version, int(str(sums.get("images", 0))), dict(ranked))


def _prefix(project_id: int) -> str:
    return f"gc:agree:{project_id}:"


def _entries(project_id: int) -> str:
    return f"{_prefix(project_id)}entries"


def _versions(project_id: int) -> str:
    return f"{_prefix(project_id)}versions"
