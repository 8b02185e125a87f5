//! The mirror between two sites, each with its own Kafka and its own schema registry whose ids clash with the other's:
//! every story once on the embedded broker and registry, and once on Apache Kafka and Apicurio.

#![allow(
    clippy::unwrap_used,
    reason = "a story that can not go on should stop there"
)]

mod access;
mod exactly_once;
mod flows;
mod outages;
mod sources;
mod stories;
mod world;

macro_rules! everywhere {
    ($($room:ident::$story:ident,)*) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    crate::$room::$story(&mut crate::world::World::embedded().await).await;
                }
            )*
        }
        /// One after the other, as they share two servers of each kind; beside the embedded ones.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn apache_kafka_and_apicurio() {
            let mut world = world::World::real().await;
            $(
                println!("{}", stringify!($story));
                $room::$story(&mut world).await;
            )*
            stories::a_refused_record_costs_no_other(&mut world).await;
            sources::what_ends_a_transaction_is_no_lag(&mut world).await;
            sources::what_the_source_deletes_first_is_counted(&mut world).await;
        }
    };
}

everywhere! {
    stories::ids_are_those_of_the_targets_registry,
    stories::what_is_no_avro_passes_unchanged,
    stories::order_and_partitions_are_kept_by_key,
    stories::records_without_a_key_keep_their_partition,
    stories::requests_get_their_origin_and_keep_it,
    stories::exactly_the_request_topic_is_left_out,
    stories::a_cluster_is_not_mirrored_onto_itself,
    stories::a_record_that_cant_be_carried_is_put_aside,
    stories::one_record_too_large_costs_no_other,
    stories::a_new_topic_is_found_soon_and_a_record_carried_at_once,
    flows::any_topics_are_carried_by_pattern_either_way,
    flows::topics_that_would_go_round_are_refused,
    flows::what_came_from_the_target_does_not_go_back,
    flows::what_is_too_old_too_large_or_too_much_is_left_out_and_counted,
    flows::operators_see_pause_and_resume_a_flow,
    flows::schemas_take_what_they_refer_to_along,
    flows::a_second_process_takes_the_flow_over,
    flows::a_capped_link_carries_no_more_and_replies_first,
    outages::a_registry_that_is_away_holds_everything_up,
    outages::a_target_that_is_away_holds_everything_up,
    outages::a_source_that_is_away_is_waited_for,
    outages::a_mirror_killed_in_the_middle_loses_nothing,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_at_the_target_costs_nothing_that_comes_later() {
    let mut world = world::World::strict_cloud().await;
    outages::a_topic_deleted_at_the_target_costs_nothing_that_comes_later(&mut world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flows_only_topic_made_anew_is_carried_whole() {
    outages::a_flows_only_topic_made_anew_is_carried_whole(&mut world::World::embedded().await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_measured() {
    stories::what_waits_is_measured(&mut world::World::embedded().await).await;
}
