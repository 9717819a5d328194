//! nDCG at a depth, as `trec_eval -m ndcg_cut` computes it (Järvelin and Kekäläinen 2002, with the logarithm from rank 1 on):
//! gain is the relevance, discount is log2(rank + 1), what was not judged counts 0, and the ideal is the judgements
//! themselves in their best order. Hits with the same score are ordered by document number, descending, as text.

use std::collections::HashMap;

/// nDCG of `hits` (document, score) against `judged`; 0 where nothing is relevant.
pub fn ndcg(hits: &[(String, f64)], judged: &HashMap<String, i64>, depth: usize) -> f64 {
    let mut hits: Vec<_> = hits.iter().collect();
    hits.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
    let gains = hits.iter().map(|(document, _)| judged.get(document).copied().unwrap_or(0));
    let mut ideal: Vec<_> = judged.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted(ideal.into_iter(), depth);
    if best > 0.0 { discounted(gains, depth) / best } else { 0.0 }
}

fn discounted(gains: impl Iterator<Item = i64>, depth: usize) -> f64 {
    let terms =
        gains.take(depth).enumerate().map(|(index, gain)| gain.max(0) as f64 / ((index + 2) as f64).log2());
    terms.sum()
}
