// SPDX-License-Identifier: Apache-2.0
//! The list of all cases. A case that is not in this list does not run.

mod access;
mod beside_proxy;
mod chart;
mod conditions;
mod config_map;
mod examples;
mod families;
mod foreign;
mod install;
mod kubernetes;
mod nodes;
mod outage;
mod own_address;
mod packets;
mod promise;
mod refusals;
mod rights;
mod setup;
mod terms;
mod writers;

use anyhow::Result;

use crate::case::Case;

/// A named case.
pub(crate) struct Named {
    /// `module::function`, as libtest prints it.
    pub(crate) name: &'static str,
    /// Fails with an error or by panicking.
    pub(crate) run: fn(&mut Case<'_>) -> Result<()>,
}

macro_rules! cases {
    ($($module:ident :: $function:ident),* $(,)?) => {
        vec![$(Named { name: concat!(stringify!($module), "::", stringify!($function)), run: $module::$function }),*]
    };
}

/// In the order in which they run.
pub(crate) fn all() -> Vec<Named> {
    cases![
        setup::node_ports_work_without_llb,
        promise::a_service_is_served_once_its_type_is_load_balancer,
        promise::a_service_without_endpoints_gets_its_address,
        promise::a_changed_port_is_followed,
        promise::changing_the_type_back_removes_everything,
        promise::a_deleted_service_leaves_nothing,
        examples::the_api_server_accepts_every_example,
        nodes::a_deleted_node_stops_getting_traffic_at_once,
        nodes::local_policy_uses_nodes_with_a_local_endpoint,
        nodes::a_service_without_node_ports_is_served_by_its_endpoints,
        families::one_service_serves_both_families_and_both_protocols,
        refusals::the_younger_of_two_colliding_services_is_refused,
        refusals::an_exhausted_pool_is_reported,
        refusals::the_class_decides_which_services_are_served,
        refusals::only_services_of_chosen_namespaces_are_served,
        config_map::pools_of_a_config_map_are_followed_and_a_wrong_one_changes_nothing,
        terms::source_ranges_and_affinity_are_applied,
        kubernetes::a_service_has_its_finalizer_until_it_is_not_served,
        kubernetes::a_finalizer_goes_when_it_is_switched_off,
        kubernetes::a_udp_service_follows_its_changes,
        kubernetes::a_udp_client_with_one_port_follows_its_pod,
        kubernetes::a_service_gets_its_node_port_later,
        kubernetes::a_rolling_update_is_no_disruption,
        packets::nodes_answer_clients_directly_in_mode_dsr,
        packets::a_new_dsr_service_loses_nothing_from_the_first_moment,
        packets::replies_pass_the_balancer_in_mode_nat,
        foreign::changes_of_others_start_no_round_and_no_write,
        foreign::a_service_that_becomes_ours_has_its_endpoints,
        own_address::services_and_statuses_follow_the_own_address_at_once,
        outage::traffic_goes_on_without_the_api_server,
        outage::an_expired_resource_version_means_a_new_list,
        outage::a_killed_agent_finds_its_vips_again,
        outage::a_start_without_the_api_server_serves_the_saved_snapshot,
        outage::a_long_outage_changes_nothing,
        outage::a_silent_partition_is_said_and_ends,
        outage::an_etcd_restored_to_an_older_revision_is_noticed,
        outage::a_clock_that_jumps_changes_nothing,
        writers::an_ordinary_service_costs_one_status_write_and_two_events,
        writers::of_two_agents_one_writes_and_the_other_takes_over,
        writers::two_agents_without_pools_do_not_fight,
        writers::llb_gives_way_to_another_load_balancer_and_says_so_once,
        conditions::kubectl_says_why_a_service_is_served_degraded_or_refused,
        beside_proxy::every_plane_serves_beside_kube_proxy,
        beside_proxy::a_relayed_vip_that_kube_proxy_takes_is_named,
        rights::each_missing_verb_is_named,
        chart::the_api_server_takes_what_the_chart_renders,
        chart::the_chart_grants_the_rights_of_the_list,
        chart::kustomize_has_the_daemon_set_of_the_chart,
        chart::wrong_values_are_named,
        install::a_release_serves_is_upgraded_without_loss_and_leaves_nothing,
        access::a_missing_verb_is_named,
        access::endpoints_are_served_without_the_right_to_read_nodes,
        access::a_wrong_token_is_named,
        access::an_expired_token_is_named_and_traffic_goes_on,
        access::renewed_credentials_are_used_and_traffic_goes_on,
        access::a_proxy_leads_to_the_api_server,
        access::a_missing_kubeconfig_is_named,
    ]
}
