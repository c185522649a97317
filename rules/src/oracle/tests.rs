use proptest::prelude::*;

use super::exhaustive::Exhaustive;
use super::occupancy::Occupancy;
use super::*;

/// Markets with many equal offers and few places, where tie rules and capacities matter.
fn market() -> impl Strategy<Value = Market> {
    (1..=3usize).prop_flat_map(|ranks| {
        let weights = proptest::sample::subsequence((1..=6i128).collect::<Vec<_>>(), ranks);
        let capacities = proptest::collection::vec(0..=4usize, ranks);
        let bidders = proptest::collection::vec((0..ranks, 0..=5i128), 0..=5);
        (weights, capacities, 0..=3i128, bidders).prop_map(|(mut weights, capacities, reserve, offers)| {
            weights.reverse();
            let reserve = reserve * 2;
            let bidders: Vec<Bidder> = (0u8..)
                .zip(offers)
                .map(|(id, (wanted, above))| Bidder { id: BidId::from_bytes([id; 16]), wanted, offer: reserve + above * 2 })
                .collect();
            let capacities = capacities.into_iter().map(|capacity| capacity.min(bidders.len())).collect();
            Market { weights, capacities, reserve, bidders, scale: 2 }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counting_places_finds_what_looking_at_every_assignment_finds(market in market()) {
        prop_assert_eq!(Exhaustive.allocate(&market)?, Occupancy.allocate(&market)?);
        prop_assert_eq!(Exhaustive.welfare(&market)?, Occupancy.welfare(&market)?);
        prop_assert_eq!(priced(&market, &Exhaustive)?, priced(&market, &Occupancy)?);
    }

    #[test]
    fn without_a_reserve_the_critical_value_is_the_externality(market in market()) {
        let market = Market { reserve: 0, ..market };
        let winners = priced(&market, &Exhaustive)?;
        for (who, rank) in Exhaustive.allocate(&market)?.into_iter().enumerate() {
            let Some(rank) = rank else { continue };
            let bidder = market.bidders[who];
            for scaled in [
                critical_value(&market, &Exhaustive, who, bidder.offer * market.weight(Some(rank)))?,
                critical_value(&market, &Occupancy, who, bidder.offer * market.weight(Some(rank)))?,
            ] {
                let price = Amount(u64::try_from(scaled / market.scale).unwrap());
                prop_assert!(winners.contains(&(bidder.id, u32::try_from(rank).unwrap() + 1, price)));
            }
        }
    }
}

#[test]
fn a_market_too_wide_to_count_is_refused_instead_of_running_for_hours() {
    let bidders = (0..60).map(|id| Bidder { id: BidId::from_bytes([id; 16]), wanted: 0, offer: 2 }).collect();
    let market = Market { weights: vec![5, 4, 3, 2, 1], capacities: vec![50; 5], reserve: 0, bidders, scale: 2 };
    assert!(matches!(priced(&market, &Occupancy), Err(OracleError::TooLarge { bidders: 60, .. })));
}

#[test]
fn a_rank_that_just_suffices_for_the_others_is_scarce_when_the_bidder_comes_too() {
    // Three want two places: whoever of the first two lowers its offer below the third's loses its place.
    let bidders = [9, 8, 7].into_iter().zip(0..).map(|(offer, id)| Bidder { id: BidId::from_bytes([id; 16]), wanted: 0, offer: offer * 2 });
    let market = Market { weights: vec![1], capacities: vec![2], reserve: 2, bidders: bidders.collect(), scale: 2 };
    assert_eq!(Occupancy.allocate_at(&market, 0, &[16, 13]), Ok(vec![Some(0), None]));
    assert_eq!(Exhaustive.allocate_at(&market, 0, &[16, 13]), Ok(vec![Some(0), None]));
    assert_eq!(priced(&market, &Occupancy).unwrap().iter().map(|winner| winner.2).collect::<Vec<_>>(), [Amount(7), Amount(7)]);
}
