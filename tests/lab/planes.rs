// SPDX-License-Identifier: Apache-2.0
//! The list of scenarios, once per plane. A scenario that is missing here
//! does not run: the compiler calls it dead code.

use crate::plane::Plane;
use crate::scenarios::packets::{dsr, flood, moves, neighbours, ports, refusals, restarts, routers};
use crate::scenarios::{
    answers, changes, crash, handover, life, memory, replacement, rights, soak, terms, traffic, trouble, vips,
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
            traffic::ten_mebibytes_pass_with_a_half_close,
            changes::a_deleted_service_takes_its_address_along,
            changes::a_changed_port_leaves_connections_of_other_ports_alone,
            changes::an_address_of_somebody_else_is_served_and_never_touched,
            changes::a_vip_moves_to_another_address,
            terms::source_ranges_change_while_traffic_flows,
            terms::affinity_holds_across_ports_and_ends_when_it_is_taken_off,
            terms::a_backend_is_told_the_client_by_the_proxy_protocol,
            trouble::a_dead_node_costs_no_request,
            trouble::a_silent_node_costs_no_request,
            trouble::a_node_that_rejects_costs_no_request,
            trouble::without_a_living_node_a_connection_fails_and_later_heals,
            trouble::a_port_in_use_is_reported_and_heals,
            trouble::a_broken_manifest_keeps_its_last_good_content,
            trouble::manifests_that_are_away_keep_their_last_good_content,
            vips::a_vip_of_another_host_is_refused_until_it_is_free,
            vips::a_vip_that_another_host_takes_stays_and_is_reported,
            vips::a_flushed_vip_is_put_back,
            vips::vips_are_announced_again_when_the_link_is_up_again,
            vips::vips_are_announced_again_when_the_cable_is_back,
            vips::a_vip_follows_the_links_subnet,
            vips::a_service_on_the_links_own_address_follows_it,
            replacement::every_backend_is_replaced_and_no_request_fails,
            replacement::a_download_outlives_its_backends_place_in_the_rule,
            life::an_agent_killed_and_restarted_adopts_its_addresses,
            life::what_changed_while_no_agent_ran_is_made_up_for,
            life::sigterm_drains_then_leaves_nothing,
            life::sigterm_does_not_wait_for_ever,
            life::sigterm_lets_a_download_finish,
            life::a_second_sigterm_ends_at_once,
            handover::three_restarts_lose_no_request_and_the_vip_stays,
            handover::a_download_goes_on_in_the_old_agent,
            handover::a_new_agent_that_fails_leaves_the_old_one,
            handover::sigterm_waits_for_a_new_agent_that_is_there,
            handover::either_agent_may_be_killed_at_any_moment_of_a_handover,
            soak::a_soak_loses_no_byte_and_leaves_no_descriptor,
        }
    };
}

/// Of the agent more than of a plane: one that relays and one that forwards are enough.
macro_rules! crash_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            crash::killed_at_100_random_moments_it_converges,
            crash::killed_at_random_moments_it_converges_with_tags_in_a_file,
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

/// What only a plane that connects by itself can promise.
macro_rules! relay_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            replacement::every_backend_dies_before_its_replacement_is_told_and_no_request_fails,
            replacement::a_backend_that_drops_all_packets_costs_one_attempt,
            memory::a_backend_that_never_reads_costs_little_memory,
            traffic::an_urgent_byte_arrives_in_its_place,
        }
    };
}

/// What only a plane of packets can promise.
macro_rules! packet_scenarios {
    ($plane:expr) => {
        scenarios! {
            $plane,
            restarts::a_thousand_connections_outlive_every_kind_of_restart,
            restarts::a_second_agent_on_the_link_refuses_and_changes_nothing,
            moves::a_move_to_the_relay_and_back_breaks_nothing,
            dsr::nodes_see_the_client_and_answer_it_themselves,
            refusals::pings_and_closed_ports_are_answered_at_once,
            refusals::a_service_without_backends_refuses_at_once,
            routers::a_backend_is_a_client_of_its_own_service,
            routers::clients_and_backends_may_be_behind_a_router,
            routers::an_upload_finds_the_mtu_behind_a_router,
            neighbours::a_node_with_another_mac_is_found_again,
            neighbours::a_silent_node_is_left_out_until_it_is_back,
            answers::datagrams_that_are_too_large_arrive_once_the_client_was_told,
            answers::a_hop_limit_that_ends_here_is_told,
        }
    };
}

/// As [`packet_scenarios`]; the hooks share what these are about, so one is enough.
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
    rights_scenarios!(Plane::Userspace);
    crash_scenarios!(Plane::Userspace);
    relay_scenarios!(Plane::Userspace);
}

mod tc {
    every_scenario!(Plane::Tc);
    rights_scenarios!(Plane::Tc);
    crash_scenarios!(Plane::Tc);
    packet_scenarios!(Plane::Tc);
    scenarios!(Plane::Tc, neighbours::a_link_that_was_made_anew_forwards_again,);
}

mod xdp_native {
    every_scenario!(Plane::XdpNative);
    packet_scenarios!(Plane::XdpNative);
    heavy_packet_scenarios!(Plane::XdpNative);
}

mod xdp_generic {
    every_scenario!(Plane::XdpGeneric);
    packet_scenarios!(Plane::XdpGeneric);
}

mod sockmap {
    use crate::scenarios::sockmap;

    every_scenario!(Plane::Sockmap);
    rights_scenarios!(Plane::Sockmap);
    scenarios! {
        Plane::Sockmap,
        sockmap::the_kernel_moves_bytes_and_they_are_counted,
        sockmap::bulk_comes_back_to_be_spliced,
        sockmap::beyond_the_most_pairs_connections_are_relayed,
        sockmap::a_killed_agent_resets_both_sides,
        memory::a_backend_that_never_reads_costs_little_memory,
        traffic::an_urgent_byte_arrives_in_its_place,
    }
}
