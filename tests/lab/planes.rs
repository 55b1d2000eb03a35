// SPDX-License-Identifier: Apache-2.0
//! The list of scenarios for each plane. A scenario that is in no list does not run; the compiler then reports
//! it as dead code.

use crate::plane::Plane;
use crate::scenarios::packets::{
    dsr, flood, fragments, jumbo, link_shapes, moves, neighbours, outages, ports, questions, refusals,
    restarts, return_path, returned, routers, routes, suspects, vlans,
};
use crate::scenarios::{
    answers, changes, chaos, crash, dead_backends, flows, handover, health, life, memory, observed,
    other_clients, reload, replacement, rights, soak, tenant, terms, traffic, trouble, vips,
};

macro_rules! scenarios {
    ($plane:expr, $($room:ident::$name:ident,)*) => {
        $(
            #[test]
            #[ignore = "needs root: cargo xtask test"]
            fn $name() {
                $room::$name($plane);
            }
        )*
    };
}

macro_rules! every_scenario {
    ($plane:expr) => {
        use super::*;
        scenarios! {
            $plane,
            traffic::http_reaches_both_nodes_over_ipv4_and_ipv6,
            traffic::udp_reaches_both_nodes_and_a_flow_stays_with_one,
            traffic::tcp_and_udp_share_a_port_in_one_service,
            traffic::each_port_leads_to_its_own_node_port,
            traffic::two_services_share_a_vip,
            traffic::ten_mebibytes_are_echoed_after_a_half_close,
            changes::a_deleted_service_removes_its_address,
            changes::a_changed_port_leaves_connections_of_other_ports_alone,
            changes::a_foreign_address_is_served_and_never_touched,
            changes::a_vip_moves_to_another_address,
            reload::a_changed_file_counts_at_once_and_a_wrong_one_changes_nothing,
            terms::source_ranges_change_while_traffic_flows,
            terms::affinity_covers_all_ports_and_ends_when_it_is_removed,
            terms::the_proxy_protocol_tells_a_backend_the_client,
            trouble::no_request_fails_when_a_node_dies,
            trouble::no_request_fails_when_a_node_goes_silent,
            trouble::no_request_fails_when_a_node_rejects_connections,
            trouble::without_any_node_connections_fail_at_once_until_one_returns,
            refusals::a_service_without_backends_is_published_and_refuses_at_once,
            trouble::a_port_in_use_is_reported_and_served_once_it_is_free,
            trouble::the_last_good_content_of_a_broken_manifest_stays_in_use,
            trouble::the_last_good_content_of_missing_manifests_stays_in_use,
            dead_backends::a_dead_backend_is_said_until_it_answers_again,
            dead_backends::a_frontend_without_a_living_backend_is_a_problem_until_one_answers,
            dead_backends::an_own_address_that_is_gone_is_a_problem_until_it_is_back,
            observed::traffic_its_balance_and_failures_are_seen,
            vips::a_vip_of_another_host_is_refused_until_it_is_free,
            vips::a_refused_vip_is_not_published_when_its_link_is_gone,
            vips::a_published_vip_that_another_host_has_now_is_withdrawn,
            vips::a_vip_that_another_host_takes_stays_and_is_reported,
            vips::a_flushed_vip_is_put_back,
            vips::vips_are_announced_again_when_the_link_is_up_again,
            vips::vips_are_announced_again_when_the_cable_is_back,
            vips::a_vip_gets_the_prefix_length_of_the_links_new_subnet,
            vips::a_service_on_the_links_own_address_follows_that_address,
            replacement::no_request_fails_while_every_backend_is_replaced,
            replacement::a_download_survives_the_removal_of_its_backend_from_the_rule,
            life::an_agent_killed_and_restarted_adopts_its_addresses,
            life::a_new_agent_applies_what_changed_while_none_ran,
            life::sigterm_drains_connections_and_removes_everything,
            life::the_drain_after_sigterm_has_a_time_limit,
            life::sigterm_lets_a_download_finish,
            life::a_second_sigterm_ends_at_once,
            handover::three_restarts_lose_no_request_and_the_vip_stays,
            handover::a_download_goes_on_in_the_old_agent,
            handover::the_old_agent_stays_in_charge_if_the_new_one_fails,
            handover::sigterm_waits_for_a_new_agent_that_is_about_to_take_over,
            handover::either_agent_may_be_killed_at_any_moment_of_a_handover,
            other_clients::clients_on_the_balancer_and_behind_its_other_links_are_served,
            other_clients::no_other_program_binds_the_port_of_a_vip,
            other_clients::their_connections_outlive_a_handover,
            soak::a_soak_loses_no_byte_and_leaves_no_descriptor,
            chaos::no_connection_is_lost_that_plain_routing_keeps,
        }
    };
}

/// These test the agent more than the plane, so one plane that relays and one that forwards packets are enough.
macro_rules! crash_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            crash::the_agent_converges_after_100_kills_at_random_moments,
            crash::the_agent_converges_after_random_kills_with_tags_in_a_file,
        }
    };
}

/// Of the agent, which makes the checks; the plane only keeps the connections.
macro_rules! health_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            health::a_node_whose_health_check_fails_keeps_its_connections_but_gets_no_more,
        }
    };
}

/// Of the agent too; what it needs of the kernel depends on the plane.
macro_rules! rights_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            rights::what_an_agent_does_later_works_with_the_rights_that_it_keeps,
        }
    };
}

/// Only a plane that opens the connections to backends itself can promise these.
macro_rules! relay_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            replacement::no_request_fails_when_every_backend_dies_before_its_replacement_is_known,
            replacement::a_backend_that_drops_all_packets_costs_a_request_at_most_one_attempt,
            memory::a_backend_that_never_reads_costs_little_memory,
            traffic::an_urgent_byte_arrives_in_order,
        }
    };
}

/// Only a plane that forwards packets can promise these.
macro_rules! packet_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            flows::flows_are_shown_with_client_vip_and_backend_also_after_the_agent_has_died,
            restarts::a_thousand_connections_outlive_every_kind_of_restart,
            restarts::a_second_agent_on_the_link_refuses_and_changes_nothing,
            moves::a_move_to_the_relay_and_back_breaks_no_connection,
            moves::a_move_from_the_relay_of_the_agent_before_breaks_no_connection,
            other_clients::they_are_told_apart_and_their_connections_stay_when_the_service_moves,
            other_clients::they_are_relayed_beside_mode_dsr,
            other_clients::their_downloads_finish_when_the_agent_ends,
            link_shapes::what_needs_a_link_without_ethernet_header_is_relayed,
            vlans::a_frame_in_a_vlan_begins_no_flow,
            jumbo::jumbo_frames_are_forwarded_when_the_mtu_is_raised,
            link_shapes::ipv6_is_relayed_on_a_link_without_a_link_local_address,
            dsr::nodes_see_the_client_and_answer_it_directly,
            chaos::in_mode_dsr_no_connection_is_lost_that_plain_routing_keeps,
            returned::a_packet_that_a_node_sends_back_goes_round_no_more,
            returned::a_new_service_answers_before_nodes_have_rules_for_its_vip,
            returned::clients_wait_until_a_node_has_a_rule_and_none_is_lost,
            refusals::pings_and_closed_ports_are_answered_at_once,
            routers::a_backend_can_be_a_client_of_its_own_service,
            routers::clients_and_backends_may_be_behind_a_router,
            routers::an_upload_finds_the_mtu_behind_a_router,
            routes::a_route_that_moves_to_another_link_takes_the_service_with_it,
            routes::a_new_preferred_source_breaks_no_connection,
            return_path::replies_take_the_route_if_that_is_chosen,
            neighbours::a_node_whose_mac_changes_is_found_again,
            neighbours::a_silent_node_is_left_out_until_it_is_back,
            suspects::a_client_whose_syns_are_wrong_takes_no_node_from_others,
            suspects::a_node_to_which_some_packets_are_lost_keeps_its_share,
            suspects::a_node_that_can_not_accept_all_connections_keeps_getting_some,
            outages::connections_outlive_short_outages_of_the_network,
            dead_backends::a_silent_node_is_dead_without_any_request,
            answers::the_client_learns_the_mtu_when_its_datagrams_are_too_large,
            answers::an_expired_hop_limit_is_reported_to_the_client,
            flood::stray_packets_leave_ports_for_others,
            fragments::fragments_in_reverse_order_arrive,
            fragments::in_mode_dsr_fragments_in_reverse_order_arrive,
            questions::a_late_answer_reaches_no_other_client,
        }
    };
}

/// As [`packet_scenarios`], for what all hooks share: one hook is enough.
macro_rules! heavy_packet_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            ports::ports_of_closed_connections_are_used_again,
            flood::a_flood_of_openings_breaks_no_connection,
            flood::a_flood_of_openings_leaves_ports_for_others,
        }
    };
}

mod userspace {
    every_scenario!(Plane::Userspace);
    health_scenarios!(Plane::Userspace);
    rights_scenarios!(Plane::Userspace);
    scenarios!(Plane::Userspace, trouble::pods_without_a_route_are_said_and_served_once_there_is_one,);
    crash_scenarios!(Plane::Userspace);
    relay_scenarios!(Plane::Userspace);
    scenarios!(Plane::Userspace, chaos::connections_that_llb_loses_are_seen,);
    scenarios!(Plane::Userspace, tenant::a_hostile_tenant_with_a_pool_takes_nothing_from_others,);
}

mod tc {
    every_scenario!(Plane::Tc);
    health_scenarios!(Plane::Tc);
    rights_scenarios!(Plane::Tc);
    crash_scenarios!(Plane::Tc);
    packet_scenarios!(Plane::Tc);
    scenarios! {
        Plane::Tc,
        neighbours::a_link_that_was_deleted_and_created_again_forwards_again,
        neighbours::more_nodes_on_the_segment_than_the_kernel_remembers_are_all_reached,
        tenant::a_hostile_tenant_without_a_pool_takes_nothing_from_others,
    }
}

/// The programs are those of [`tc`]; only how they get to the link and stay there is different.
mod tc_clsact {
    use super::*;

    scenarios! {
        Plane::TcClsact,
        traffic::http_reaches_both_nodes_over_ipv4_and_ipv6,
        traffic::ten_mebibytes_are_echoed_after_a_half_close,
        dsr::nodes_see_the_client_and_answer_it_directly,
        restarts::a_thousand_connections_outlive_every_kind_of_restart,
        handover::three_restarts_lose_no_request_and_the_vip_stays,
        life::sigterm_drains_connections_and_removes_everything,
        rights::what_an_agent_does_later_works_with_the_rights_that_it_keeps,
        neighbours::a_link_that_was_deleted_and_created_again_forwards_again,
    }
}

mod xdp_native {
    every_scenario!(Plane::XdpNative);
    packet_scenarios!(Plane::XdpNative);
    heavy_packet_scenarios!(Plane::XdpNative);
    scenarios!(
        Plane::XdpNative,
        dead_backends::xdp_on_a_veth_that_loses_its_packets_is_a_problem,
        handover::a_link_that_changes_during_a_handover_loses_nothing,
    );
}

mod xdp_generic {
    every_scenario!(Plane::XdpGeneric);
    packet_scenarios!(Plane::XdpGeneric);
    scenarios!(Plane::XdpGeneric, handover::a_link_that_changes_during_a_handover_loses_nothing,);
}

mod sockmap {
    use crate::scenarios::sockmap;

    every_scenario!(Plane::Sockmap);
    rights_scenarios!(Plane::Sockmap);
    scenarios! {
        Plane::Sockmap,
        sockmap::the_kernel_moves_bytes_and_they_are_counted,
        sockmap::bulk_connections_return_to_the_relay_and_are_spliced,
        sockmap::connections_beyond_the_largest_number_of_pairs_are_relayed,
        sockmap::a_killed_agent_resets_both_sides,
        memory::a_backend_that_never_reads_costs_little_memory,
        traffic::an_urgent_byte_arrives_in_order,
    }
}
