//! A broker as its clients see it. What is true of any Kafka broker (`suite`) is run against ours and against Apache
//! Kafka; what is ours alone (its disk, its bounds) has its own stories.

#![allow(
    clippy::unwrap_used,
    reason = "a story that can not go on should stop there"
)]

mod disk;
mod hostile;
mod peers;
mod program;
mod raw;
mod suite;
mod support;

/// The stories any Kafka broker has to tell, each once against ours and once against Apache Kafka.
macro_rules! everywhere {
    ($($story:ident,)*) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    let broker = crate::support::Embedded::start().await;
                    crate::suite::$story(&broker.bootstrap()).await;
                    broker.stop().await;
                }
            )*
        }
        mod apache {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    crate::suite::$story(&crate::support::apache().await).await;
                }
            )*
        }
    };
}

everywhere! {
    each_codec_is_stored_and_read,
    a_batch_sent_twice_is_stored_once,
    an_old_instance_of_a_producer_is_fenced,
    an_outstanding_fetch_gets_a_new_record,
    two_consumers_share_and_resume,
    offsets_are_found_by_time,
    topics_are_made_on_demand,
    unknown_and_invalid_topics_are_told_apart,
    topics_are_administered,
    settings_are_checked_and_kept,
    bad_batches_are_refused_and_the_next_is_stored,
    fetch_honours_its_limits,
    records_are_deleted_up_to_an_offset,
    a_member_is_led_through_its_group,
    a_static_member_is_known_by_its_instance,
    committed_offsets_are_kept_per_group,
    an_unknown_api_version_is_answered_in_version_0,
    garbage_on_a_connection_does_not_disturb_others,
    kcat_produces_and_consumes,
}
