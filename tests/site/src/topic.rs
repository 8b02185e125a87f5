use std::time::Duration;

use ::kafka::{Record, RecordDecoder, TopicReader};
use records::AvroRecord;
use tokio::time::timeout;

use crate::PATIENCE;

/// The records of a topic from its beginning, as they come.
pub struct Topic<T> {
    reader: TopicReader,
    decoder: RecordDecoder<T>,
}

impl<T: AvroRecord> Topic<T> {
    pub(crate) fn new(reader: TopicReader, decoder: RecordDecoder<T>) -> Self {
        Self { reader, decoder }
    }

    pub async fn next_record(&mut self) -> Record {
        let next = timeout(PATIENCE, self.reader.next());
        next.await.expect("a record in time")
    }

    pub async fn next(&mut self) -> T {
        let record = self.next_record().await;
        self.decoder.decode(&record.value.unwrap()).await.unwrap()
    }

    /// The next that is as wanted; those before it are gone.
    pub async fn find(&mut self, is_it: impl Fn(&T) -> bool) -> T {
        loop {
            let next = self.next().await;
            if is_it(&next) {
                return next;
            }
        }
    }

    /// That nothing more comes, as far as a second tells.
    pub async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_secs(1), self.reader.next())
            .await
            .is_err()
    }
}
