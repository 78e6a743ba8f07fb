use super::*;
use crate::store::Root;

const HOUR: u64 = HOUR_SECONDS;

fn store() -> Store {
    Store::new(Root::in_pages().unwrap())
}

fn at(running: u64, wall: u64) -> Moment {
    Moment {
        running: Duration::from_secs(running),
        wall: Duration::from_secs(wall),
    }
}

fn bytes(byte: u8) -> LockedBytes {
    LockedBytes::copy_from(&[byte; 32]).unwrap()
}

/// A chain that counts from when it was made, with known contents.
fn chain() -> Chain {
    let origin = Origin {
        epoch: 0,
        length: HOUR,
        began: Duration::ZERO,
        is_wall: false,
    };
    Chain::at(&store(), origin, bytes(1), bytes(2)).unwrap()
}

fn sealed(epoch: u64, now: Moment) -> Chain {
    Chain::sealed(&store(), epoch, bytes(1), now, HOUR).unwrap()
}

/// Epoch, seconds left, key(n−1), key(n).
fn keys(chain: &mut Chain, node: &str, now: Moment) -> (u64, u32, Vec<u8>, Vec<u8>) {
    let reply = chain.reply(node, now).unwrap();
    let bytes = reply.expose();
    let epoch = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    let left = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
    (epoch, left, bytes[12..44].to_vec(), bytes[44..].to_vec())
}

fn ticket(key: &[u8], nonce: &[u8; 12], aad: &[u8], session: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut sealed = session.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed)
        .unwrap();
    sealed
}

#[test]
fn the_current_key_becomes_the_previous_one() {
    let mut chain = chain();
    let (epoch, left, _, first) = keys(&mut chain, "a", at(10, 0));
    assert_eq!((epoch, left), (0, 3590));

    let (epoch, left, previous, second) = keys(&mut chain, "a", at(HOUR, 0));

    assert_eq!((epoch, left), (1, 3600));
    assert_eq!(previous, first);
    assert_ne!(second, first);
}

#[test]
fn leaps_give_the_same_keys_as_steps() {
    let (mut leaping, mut stepping) = (chain(), chain());
    for hour in 0..5 {
        keys(&mut stepping, "a", at(hour * HOUR, 0));
    }

    assert_eq!(
        keys(&mut leaping, "a", at(5 * HOUR, 0)),
        keys(&mut stepping, "a", at(5 * HOUR, 0))
    );
}

#[test]
fn nodes_have_keys_of_their_own_and_changed_parts_keep_them() {
    let mut chain = chain();
    let before = keys(&mut chain, "a", at(0, 0));
    assert_ne!(keys(&mut chain, "b", at(0, 0)).3, before.3);

    chain.store.reshare().unwrap();

    assert_eq!(keys(&mut chain, "a", at(0, 0)), before);
}

#[test]
fn every_start_has_other_keys() {
    let random = || Chain::random(&store(), at(0, 0), HOUR).unwrap();
    let (mut one, mut other) = (random(), random());

    assert_ne!(
        keys(&mut one, "a", at(0, 0)).3,
        keys(&mut other, "a", at(0, 0)).3
    );
}

#[test]
fn hosts_that_opened_one_sealed_chain_agree_whenever_they_started() {
    let mut early = sealed(480_000, at(5, 480_000 * HOUR + 7));
    let mut late = sealed(480_000, at(90_000, 480_009 * HOUR + 3000));
    let when = 480_010 * HOUR + 60;
    let by_early = keys(&mut early, "a", at(5 + 10 * HOUR + 53, when));
    let by_late = keys(&mut late, "a", at(90_000 + 660, when));

    assert_eq!(by_early, by_late);
    assert_eq!((by_early.0, by_early.1), (480_010, 3540));
}

#[test]
fn previous_key_of_a_fresh_start_is_the_fleets() {
    let mut running = sealed(480_000, at(0, 480_004 * HOUR));
    let current = keys(&mut running, "a", at(0, 480_004 * HOUR)).3;
    let mut fresh = sealed(480_000, at(0, 480_005 * HOUR));

    assert_eq!(keys(&mut fresh, "a", at(0, 480_005 * HOUR)).2, current);
}

#[test]
fn a_clock_that_jumps_brings_nothing_back_and_leaps_one_epoch_at_most() {
    let wall = 480_005 * HOUR + 100;
    let mut chain = sealed(480_000, at(1000, wall));
    let epoch = |chain: &mut Chain, running, wall| keys(chain, "a", at(running, wall)).0;
    assert_eq!(epoch(&mut chain, 1000, wall), 480_005);
    // Back a year, forward a year.
    assert_eq!(epoch(&mut chain, 1010, wall - 8766 * HOUR), 480_005);
    assert_eq!(epoch(&mut chain, 1020, wall + 8766 * HOUR), 480_006);
    // What was left behind stays behind.
    assert_eq!(epoch(&mut chain, 1030, wall), 480_006);
    assert_eq!(epoch(&mut chain, 1000 + 5 * HOUR, wall + 5 * HOUR), 480_010);
}

#[test]
fn a_clock_far_off_is_refused_and_one_before_the_sealing_is_the_sealing() {
    let far = Chain::sealed(&store(), 1, bytes(1), at(0, 480_000 * HOUR), HOUR);
    assert!(matches!(far, Err(ChainError::Clock(479_999))));

    let mut early = sealed(480_000, at(0, 10 * HOUR));
    assert_eq!(keys(&mut early, "a", at(0, 10 * HOUR)).0, 480_000);
}

#[test]
fn tickets_of_other_nodes_open_in_their_epoch_and_the_next() {
    let now = at(0, 480_000 * HOUR);
    let (mut ours, mut theirs) = (sealed(480_000, now), sealed(480_000, now));
    let (epoch, _, _, key) = keys(&mut theirs, "other", now);
    let made = ticket(&key, &[9; 12], b"listener", b"session");
    let ticket = SealedTicket {
        node: &tag("other"),
        epoch,
        nonce: &[9; 12],
        additional_data: b"listener",
        sealed: &made,
    };
    let mut open = |ticket: &SealedTicket<'_>, hours| {
        let now = at(hours * HOUR, (480_000 + hours) * HOUR);
        ours.open(ticket, now).map(|plain| plain.expose().to_vec())
    };

    assert_eq!(open(&ticket, 0).unwrap(), b"session");
    let mut altered = made.clone();
    altered[0] ^= 1;
    for wrong in [
        SealedTicket {
            node: &tag("ours"),
            ..ticket
        },
        SealedTicket {
            epoch: epoch + 1,
            ..ticket
        },
        SealedTicket {
            epoch: u64::MAX,
            ..ticket
        },
        SealedTicket {
            nonce: &[8; 12],
            ..ticket
        },
        SealedTicket {
            additional_data: b"another",
            ..ticket
        },
        SealedTicket {
            sealed: &altered,
            ..ticket
        },
        SealedTicket {
            sealed: b"",
            ..ticket
        },
    ] {
        assert_eq!(open(&wrong, 0), Err(NoTicket));
    }
    assert_eq!(open(&ticket, 1).unwrap(), b"session");
    assert_eq!(open(&ticket, 2), Err(NoTicket));
}

#[test]
fn epochs_of_another_length_are_another_chain_that_a_fleet_shares() {
    let length = 60;
    let start = 480_000 * HOUR;
    let chain = |now, length| Chain::sealed(&store(), 480_000, bytes(1), now, length).unwrap();
    let keys = |chain: &mut Chain, now| chain.reply("a", now).unwrap().expose()[12..].to_vec();
    let now = at(5, start + 3 * length + 7);
    let (mut one, mut early) = (chain(now, length), chain(at(9, start), length));
    let later = at(9 + 3 * length + 7, start + 3 * length + 7);

    assert_eq!(one.epoch, start / length + 3);
    assert_eq!(keys(&mut one, now), keys(&mut early, later));
    let (mut hour, mut minute) = (chain(at(5, start), HOUR), chain(at(5, start), length));
    assert_ne!(
        keys(&mut hour, at(5, start))[32..],
        keys(&mut minute, at(5, start))[32..]
    );
    assert!(matches!(
        Chain::sealed(&store(), 400_000, bytes(1), at(5, start), 10),
        Err(ChainError::Clock(80_000))
    ));
}
