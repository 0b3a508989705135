"""The fields of a segment, of a newest NSX (its own bindings, version 9.1.1). Any other is refused."""

from __future__ import annotations

from typing import Final

SEGMENT_FIELDS: Final = frozenset(
    [
        "_create_time",
        "_create_user",
        "_last_modified_time",
        "_last_modified_user",
        "_links",
        "_protection",
        "_revision",
        "_schema",
        "_self",
        "_system_owned",
        "address_bindings",
        "admin_state",
        "advanced_config",
        "bridge_profiles",
        "children",
        "connectivity_path",
        "description",
        "dhcp_config_path",
        "display_name",
        "domain_name",
        "evpn_segment",
        "evpn_tenant_config_path",
        "extra_configs",
        "federation_config",
        "id",
        "l2_extension",
        "ls_id",
        "mac_pool_id",
        "marked_for_delete",
        "metadata_proxy_paths",
        "origin_site_id",
        "overlay_id",
        "overridden",
        "owner_id",
        "parent_path",
        "path",
        "realization_id",
        "relative_path",
        "remote_path",
        "replication_mode",
        "resource_type",
        "subnets",
        "tags",
        "transport_zone_path",
        "type",
        "unique_id",
        "vlan_ids",
    ]
)
ADVANCED_FIELDS: Final = frozenset(
    [
        "address_pool_paths",
        "connectivity",
        "hybrid",
        "inter_router",
        "local_egress",
        "local_egress_routing_policies",
        "multicast",
        "ndra_profile_path",
        "node_local_switch",
        "origin_id",
        "origin_type",
        "uplink_teaming_policy_name",
        "urpf_mode",
    ]
)
SUBNET_FIELDS: Final = frozenset({"dhcp_config", "dhcp_ranges", "gateway_address", "network"})
