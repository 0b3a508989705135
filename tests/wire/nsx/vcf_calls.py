"""Every call of our NSX client, by Broadcom's own ``vcf-nsx``. A program of its own: its imports take 618 MB and 6 s.

``vcf_calls.py URL CA_FILE USER`` reads the password from standard input. It prints a JSON object of what it found.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import requests
from vcf.nsx.model_client import ApiError, Segment
from vcf.nsx.policy.api.v1 import infra_client
from vcf.nsx.policy.api.v1.infra import segments_client, tier_1s_client
from vcf.nsx.policy.api.v1.infra.tier_1s import segments_client as tier_segments_client
from vmware.vapi.bindings.stub import StubConfiguration
from vmware.vapi.lib.connect import get_requests_connector
from vmware.vapi.security.client.security_context_filter import LegacySecurityContextFilter
from vmware.vapi.security.user_password import create_user_password_security_context

__test__ = False


def main() -> None:
    url, ca_file, user = sys.argv[1:]
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_file
    context = create_user_password_security_context(user, sys.stdin.read())
    connector = get_requests_connector(
        session,
        msg_protocol="rest",
        url=url,
        provider_filter_chain=[LegacySecurityContextFilter(security_context=context)],
    )
    print(json.dumps(Calls(StubConfiguration(connector)).run()))


class Calls:
    def __init__(self, config: Any) -> None:
        self.tiers = infra_client.Tier1s(config)
        self.flexible = infra_client.Segments(config)
        self.fixed = tier_1s_client.Segments(config)
        self.states = segments_client.State(config)
        self.ports = segments_client.Ports(config)
        self.fixed_states = tier_segments_client.State(config)
        self.fixed_ports = tier_segments_client.Ports(config)
        self.found: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """In the order of ``test_oracle.py``."""
        found = self.found
        found["tiers"] = [one.path for one in self.tiers.policy_lm_list_tier1(page_size=100).results]
        found["flexible"] = [one.path for one in self.flexible.policy_lm_list_all_infra_segments(page_size=100).results]
        for tier in ("cgw", "mgw"):
            rows = self.fixed.policy_lm_list_segments(tier, page_size=100).results
            found[tier] = [one.path for one in rows or ()]
        found["types"] = [self._read("web").type, self._read("app").type]
        self._states("states")
        found["ports"] = [
            [
                one.id
                for one in self.fixed_ports.policy_lm_list_tier1_segment_ports("cgw", "web", page_size=100).results
                or ()
            ],
            [one.id for one in self.ports.policy_lm_list_infra_segment_ports("app", page_size=100).results or ()],
        ]
        for name in ("web", "app"):
            self._switch(name, "OFF")
            self._switch(name, "ON")
            self._rename(name)
        found["held"] = self._refused(lambda: self._delete("web"))
        self._delete("app")
        found["gone"] = self._refused(lambda: self._read("app"))
        return found

    def _read(self, name: str) -> Any:
        if name == "web":
            return self.fixed.policy_lm_read_segment("cgw", "web")
        return self.flexible.policy_lm_read_infra_segment(name)

    def _patch(self, name: str, body: Any) -> None:
        if name == "web":
            self.fixed.policy_lm_patch_segment("cgw", "web", body)
        else:
            self.flexible.policy_lm_patch_infra_segment(name, body)

    def _delete(self, name: str) -> None:
        if name == "web":
            self.fixed.policy_lm_delete_segment("cgw", "web")
        else:
            self.flexible.policy_lm_delete_infra_segment(name)

    def _states(self, key: str) -> None:
        self.found[key] = [
            self.fixed_states.policy_lm_get_segment_state("cgw", "web").state,
            self.states.policy_lm_get_infra_segment_state("app").state,
        ]

    def _switch(self, name: str, wanted: str) -> None:
        before = self._read(name)
        advanced = before.advanced_config
        advanced.connectivity = wanted
        self._patch(
            name,
            Segment(subnets=before.subnets, connectivity_path=before.connectivity_path, advanced_config=advanced),
        )

    def _rename(self, name: str) -> None:
        before = self._read(name)
        self._patch(
            name,
            Segment(
                subnets=before.subnets,
                connectivity_path=before.connectivity_path,
                advanced_config=before.advanced_config,
                display_name="moved",
            ),
        )

    def _refused(self, call: Any) -> int | None:
        try:
            call()
        except ApiError as error:
            # In this version the bindings leave the fields of an error to its raw value.
            return int(error.get_struct_value().get_field("error_code").value)
        return None


if __name__ == "__main__":
    main()
