"""Every secret has a value of its own, a wave runs, and then all that was written or said is searched for them.

Connections are in Airflow's database, as in production, not in environment variables. The databases have passwords that
PostgreSQL does not ask for here: what matters is where they are written. Everything goes through a proxy with a
password, and the CA bundles hold a private key, as they do when somebody copies too much. A second wave has a wrong
password, and a third one a wrong password of the proxy, because errors say more than successes.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from tests.airflow.waves import BUCKET, RUNNING, Vm, WaveOf, lay_out, machines
from tests.connect_proxy import ConnectProxy, Rules
from tests.postgres import Postgres
from tests.scan import SIGNED, Processes, Scan

from wavelift.cli.local_airflow import LocalAirflow
from wavelift.cli.simulators import Stage
from wavelift.ledger import Ledger
from wavelift.rules.grants import Grant, sign
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimUser
from wavelift.simulators.vcenter import start as start_vcenter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.proof,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("secrets"),
]
ROOT: Final = Path(__file__).parents[2]
USER: Final = "administrator@vsphere.local"
SHOP: Final = WaveOf((Vm("shop-web", (4,), entry=RUNNING), Vm("shop-db", (4, 6))))
WRONG: Final = WaveOf((Vm("wrong-a", (4,)),), {"source": {"connection": "vsphere_wrong", "connector": "wrong"}})
CLOSED: Final = WaveOf((Vm("closed-a", (4,)),), {"source": {"connection": "vsphere_closed", "connector": "wrong"}})
"""Its proxy refuses the password."""
PROXY_USER: Final = "wave"
GRANTS: Final = "grants"
XCOMS: Final = "/xcomEntries"
ANY_GRANT: Final = Grant.load(
    {
        **dict.fromkeys(("user", "environment", "dag_id", "run_id", "server", "vcenter", "connector", "plan"), "any"),
        "scope": "look",
        "action": "migrate",
    }
)


def pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(serialization.Encoding.PEM, *form)


def body_of(key: bytes) -> str:
    """A line of a PEM's body that no other key has."""
    lines = key.decode().splitlines()[1:-1]
    return lines[len(lines) // 2] if len(lines) > 1 else lines[0][-40:]


def grant_key(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Settings of the key that signs grants, and what to look for: the key, and the head that all its grants have."""
    files = KeyFiles(folder / "private.pem", folder / "public")
    grant_keys.keygen(files)
    settings = {"GRANT_KEY_FILE": files.private, "GRANT_KEYS_FOLDER": files.public}
    key = grant_keys.private_key(files.private)
    any_grant = sign(ANY_GRANT, key, now=datetime.now(UTC), lifetime=timedelta(0))
    return (
        {f"AIRFLOW__WAVELIFT__{name}": str(path) for name, path in settings.items()},
        {"key of grants": body_of(files.private.read_bytes()), GRANTS: any_grant.partition(".")[0]},
    )


def marked(name: str) -> str:
    """A password with characters that URLs, JSON and HTML escape."""
    return f'{name}:/+<&"%{secrets.token_hex(16)}'


@dataclass
class World:
    """The running Airflow over both simulators, and what nobody may read."""

    folder: Path
    postgres: Postgres
    airflow: LocalAirflow
    stage: Stage
    hidden: dict[str, str]
    access_key: str
    databases: dict[str, str]
    processes: Processes
    proxy: ConnectProxy
    said: dict[str, bytes] = field(default_factory=dict)
    """Every answer of REST, by address."""

    @property
    def scan(self) -> Scan:
        return Scan(self.hidden)

    def written(self) -> dict[str, set[str]]:
        """Of files: the home of Airflow, DAGs, temporary files, the user's folder, PostgreSQL's log, what AWS holds."""
        places = [self.folder / name for name in ("home", "dags", "tmp", "user", "aws")]
        found = self.scan.of_files(*places)
        if names := self.scan.of((self.postgres.folder / "log").read_bytes()):
            found["postgresql"] = names
        return found

    def stored(self) -> dict[str, set[str]]:
        """Of the tables of both databases."""
        found: dict[str, set[str]] = {}
        for database, url in self.databases.items():
            dump = subprocess.run(["pg_dump", "-d", url], capture_output=True, check=True).stdout
            assert len(dump) > 10_000, "a dump of nothing proves nothing"
            table = ""
            for line in dump.splitlines():
                if line.startswith(b"COPY "):
                    table = line.split()[1].decode()
                if names := self.scan.of(line):
                    found.setdefault(f"{database} {table}", set()).update(names)
        return found

    def answered(self) -> dict[str, set[str]]:
        return {address: names for address, body in self.said.items() if (names := self.scan.of(body))}

    def get(self, path: str) -> Any:
        """Keep one answer, with its head. Its status."""
        request = urllib.request.Request(self.airflow.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, head, body = answer.status, str(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            status, head, body = error.code, str(error.headers), error.read()
        self.said[path] = head.encode() + body
        return status

    @property
    def token(self) -> str:
        return self.hidden["token of a user"]


@pytest.fixture
def world(tmp_path: Path, postgres: Postgres) -> Iterator[World]:
    for name in ("tmp", "user"):
        (tmp_path / name).mkdir()
    waves = {"shop": SHOP, "wrong": WRONG, "closed": CLOSED}
    authority = pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    grant_settings, grant_secret = grant_key(tmp_path / "grants")
    hidden = {
        "vCenter's password": marked("vcenter"),
        "wrong password": marked("wrong"),
        "password of Airflow's database": secrets.token_hex(16),
        "password of the ledger": secrets.token_hex(16),
        "Fernet key": Fernet.generate_key().decode(),
        "JWT secret": secrets.token_hex(32),
        "API secret": secrets.token_hex(32),
        "password of the web UI": secrets.token_hex(16),
        "password of a spare connection": marked("spare"),
        "token in an extra": marked("extra"),
        "password of a spare proxy": marked("spare proxy"),
        "password of the proxy": marked("proxy"),
        "wrong password of the proxy": marked("wrong proxy"),
        "key of the authority": body_of(authority),
        **grant_secret,
    }
    with ExitStack() as stack:
        proxy = ConnectProxy(Rules(login=f"{PROXY_USER}:{hidden['password of the proxy']}"))
        stack.callback(proxy.close)
        aws = stack.enter_context(start_aws(tmp_path / "aws", tls=True))
        network = aws.bootstrap(bucket=BUCKET, role=True)
        keys = aws.client("sts").get_session_token(DurationSeconds=7200)["Credentials"]
        hidden |= {"AWS secret key": keys["SecretAccessKey"], "AWS session token": keys["SessionToken"]}
        users = [SimUser(USER, hidden["vCenter's password"])]
        vcenter = stack.enter_context(
            start_vcenter(tmp_path / "vcenter", machines(tmp_path / "disks", waves), users=users)
        )
        stage = Stage(vcenter, aws, network)
        assert aws.ca_file is not None
        (tmp_path / "ca").mkdir()
        for name, file in (("vcenter", vcenter.ca_file), ("aws", aws.ca_file)):
            (tmp_path / "ca" / f"{name}.pem").write_bytes(file.read_bytes() + authority)
        lay_out(tmp_path / "dags", stage, waves)
        plain = {"airflow": postgres.create(), "ledger": postgres.create()}
        Ledger.open(plain["ledger"], upgrade=True).close()
        urls = {
            name: url.replace("://wavelift@", f"+psycopg2://wavelift:{hidden[password]}@")
            for (name, url), password in zip(
                plain.items(), ("password of Airflow's database", "password of the ledger"), strict=True
            )
        }
        settings = {
            "TMPDIR": str(tmp_path / "tmp"),
            "HOME": str(tmp_path / "user"),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            **grant_settings,
            "AIRFLOW__WAVELIFT__LEDGER_URL": urls["ledger"],
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": urls["airflow"],
            "AIRFLOW__CORE__FERNET_KEY": hidden["Fernet key"],
            "AIRFLOW__API_AUTH__JWT_SECRET": hidden["JWT secret"],
            "AIRFLOW__API__SECRET_KEY": hidden["API secret"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        airflow = LocalAirflow(tmp_path / "home", tmp_path / "dags", settings)
        passwords = tmp_path / "home" / "simple_auth_manager_passwords.json.generated"
        passwords.write_text(json.dumps({"admin": hidden["password of the web UI"]}))
        processes = stack.enter_context(Processes(Scan(hidden), tmp_path / "home"))
        stack.enter_context(airflow)
        airflow.migrate()
        airflow.start()
        body = {"username": "admin", "password": hidden["password of the web UI"]}
        hidden["token of a user"] = airflow.api.raw("POST", "/auth/token", body)[1]["access_token"]
        yield World(tmp_path, postgres, airflow, stage, hidden, keys["AccessKeyId"], plain, processes, proxy)


def connections(world: World) -> dict[str, dict[str, Any]]:
    """As a person enters them."""
    stage, hidden = world.stage, world.hidden
    vsphere = {
        "conn_type": "vsphere",
        "host": stage.vcenter.host,
        "port": stage.vcenter.port,
        "login": USER,
    }
    vsphere_extra = {
        "ca_bundle": str(world.folder / "ca" / "vcenter.pem"),
        "proxy": world.proxy.url(),
        "proxy_user": PROXY_USER,
        "proxy_password": hidden["password of the proxy"],
    }
    closed = json.dumps(vsphere_extra | {"proxy_password": hidden["wrong password of the proxy"]})
    vsphere["extra"] = json.dumps(vsphere_extra)
    aws = {
        "region_name": stage.aws.region,
        "endpoint_url": stage.aws.endpoint_url,
        "verify": str(world.folder / "ca" / "aws.pem"),
        "config_kwargs": {"proxies": {"https": world.proxy.url()}},
        "proxy_user": PROXY_USER,
        "proxy_password": hidden["password of the proxy"],
        "aws_session_token": hidden["AWS session token"],
    }
    spare = {"token": hidden["token in an extra"], "proxy_password": hidden["password of a spare proxy"]}
    return {
        "vsphere_demo": {**vsphere, "password": hidden["vCenter's password"]},
        "vsphere_wrong": {**vsphere, "password": hidden["wrong password"]},
        "vsphere_closed": {**vsphere, "password": hidden["vCenter's password"], "extra": closed},
        "aws_demo": {
            "conn_type": "aws",
            "login": world.access_key,
            "password": hidden["AWS secret key"],
            "extra": json.dumps(aws),
        },
        "spare": {
            "conn_type": "http",
            "host": "spare.example",
            "login": "me",
            "password": hidden["password of a spare connection"],
            "extra": json.dumps(spare),
        },
    }


def contexts(world: World, runs: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Values for the parameters of routes: one connection, run, task instance or XCom each."""
    api = world.airflow.api
    events = api.call("GET", "/api/v2/eventLogs?limit=100")["event_logs"]
    yield from ({"connection_id": name} for name in connections(world))
    yield from ({"event_log_id": str(event["event_log_id"])} for event in events)
    for dag_id, run_id in runs.items():
        run = {"dag_id": dag_id, "dag_run_id": run_id, "run_id": run_id, "version_number": "1"}
        yield run
        for row in api.task_instances(dag_id, run_id):
            for number in range(1, int(row["try_number"]) + 1):
                task = {"task_id": row["task_id"], "map_index": str(row["map_index"]), "try_number": str(number)}
                yield run | task | {"task_display_name": row["task_id"]}
            entries = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{row['task_id']}/xcomEntries"
            for entry in api.call("GET", f"{entries}?map_index={row['map_index']}")["xcom_entries"]:
                yield run | task | {"xcom_key": entry["key"]}


def walk(world: World, routes: Mapping[str, Any], prefix: str, values: list[dict[str, str]]) -> int:
    """Ask for every address that a GET route has with these values; how many were answered with 200."""
    addresses = set()
    for route, methods in routes.items():
        names = set(re.findall(r"{(\w+)}", route))
        if "get" in methods and "/auth/" not in route:  # a token is asked for there, or ended
            fitting = [one for one in [*values, {}] if names <= set(one)]
            quoted = [{name: quote(value) for name, value in one.items()} for one in fitting]
            addresses |= {prefix + route.format(**one) + query(route, one) for one in quoted}
    return sum(world.get(address) == 200 for address in sorted(addresses))


def query(route: str, values: Mapping[str, str]) -> str:
    """Of a mapped task instance, where the route does not name it."""
    mapped = "xcomEntries" in route or "logs" in route or route.endswith(("links", "state-store"))
    return f"?map_index={values['map_index']}&full_content=true" if mapped and "map_index" in values else ""


def test_no_secret_is_written_or_said_anywhere_but_where_it_must_be(world: World) -> None:
    api = world.airflow.api
    tests = []
    for name, fields in connections(world).items():
        assert api.request("POST", "/api/v2/connections", {"connection_id": name, **fields})[0] == 201
        if fields["conn_type"] == "vsphere":
            tests.append(api.request("POST", "/api/v2/connections/test", {"connection_id": name, **fields}))
    assert [answer["status"] for _, answer in tests] == [True, False, False], tests
    world.said["tests of connections"] = json.dumps(tests).encode()

    runs = {f"{wave}.migrate": world.airflow.trigger(f"{wave}.migrate") for wave in ("shop", "wrong", "closed")}
    states = {dag_id: world.airflow.wait_for_run(dag_id, run_id, timeout=900) for dag_id, run_id in runs.items()}
    expected = {"shop.migrate": "success", "wrong.migrate": "failed", "closed.migrate": "failed"}
    assert states == expected, world.airflow.log_tail()
    assert len(world.proxy.tunnels) >= 3, "vCenter, a host and AWS were reached through the proxy"

    values = list(contexts(world, runs))
    assert walk(world, api.call("GET", "/openapi.json")["paths"], "", values) > 100
    with Ledger.open(world.databases["ledger"]) as ledger, ledger.read() as tx:
        rows = tx.exec_driver_sql("SELECT id FROM migration").fetchall()
    ours = [{"migration_id": row[0], "object_id": row[0]} for row in rows]
    assert len(ours) == 4, "each named server has a row before pre-flight"
    assert walk(world, json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"], "/wavelift", ours) > 6
    logs = [body for address, body in world.said.items() if "/logs/" in address]
    for words in (b"refused the user name or password", b"407 Proxy Authentication Required"):
        assert any(words in body for body in logs), "what a failure logged was looked at"

    answers = world.answered()
    xcoms = {address for address, names in answers.items() if names == {GRANTS, SIGNED} and XCOMS in address}
    assert len(xcoms) >= 3, "one of the wave's pre-flight, and one of each server: whoever may read XComs can read them"
    found = {
        "files": world.written(),
        "tables": world.stored(),
        "answers": {address: names for address, names in answers.items() if address not in xcoms},
        "command lines": world.processes.in_command_lines,
        "environments of others": world.processes.in_environments,
        "environments of Airflow": world.processes.in_airflow,
    }
    passwords = world.folder / "home" / "simple_auth_manager_passwords.json.generated"
    assert found == {
        "files": {str(passwords): {"password of the web UI"}},
        "tables": {"airflow public.xcom": {GRANTS, SIGNED}},
        "answers": {},
        "command lines": {},
        "environments of others": {},
        # LocalAirflow gives all of its components the same; docker-compose.yml gives each what it needs.
        "environments of Airflow": {
            *("password of Airflow's database", "password of the ledger", "Fernet key", "JWT secret", "API secret")
        },
    }
    task = re.compile(r"airflow worker -- [0-9a-f]{8}-")
    assert any(task.match(line) for line in world.processes.seen), "tasks were seen, too"

    find_what_is_planted(world, runs["shop.migrate"])


def find_what_is_planted(world: World, run_id: str) -> None:
    """The same searches find a secret, or the proof above proves nothing."""
    name, value = "AWS secret key", world.hidden["AWS secret key"]
    (world.folder / "home" / "logs" / "planted.log").write_text(f"key={value}\n")
    assert name in set().union(*world.written().values())
    run = f"/api/v2/dags/shop.migrate/dagRuns/{quote(run_id)}"
    assert world.airflow.api.request("PATCH", run, {"note": value})[0] == 200  # the value of a variable is masked
    world.get(run)
    assert {address: names for address, names in world.answered().items() if GRANTS not in names} == {run: {name}}
    with Ledger.open(world.databases["ledger"]) as ledger, ledger.write() as tx:
        tx.exec_driver_sql(f"COMMENT ON TABLE migration IS '{value}'")
    assert set().union(*world.stored().values()) == {name, GRANTS, SIGNED}
