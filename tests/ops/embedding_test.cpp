#include "smamba/ops/embedding.h"

#include "ops/gradcheck.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

/// Gradient of Σ rows · d_rows + Σ weight · d_weight, in double.
at::Tensor expected_gradient(const at::Tensor& ids, const at::Tensor& d_rows, const at::Tensor& d_weight) {
  const at::Tensor rows = d_rows.to(at::kDouble).reshape({-1, d_rows.size(-1)});
  return d_weight.to(at::kDouble).index_add(0, ids.flatten(), rows);
}

struct Lookup {
  at::Tensor weight, ids, d_rows, d_weight;
  Lookup(int64_t vocabulary, int64_t width, at::Tensor which, Source& random)
      : weight(random.normal({vocabulary, width}, at::kFloat).requires_grad_(true)),
        ids(std::move(which)),
        d_rows(random.normal({ids.size(0), ids.size(1), width}, at::kFloat)),
        d_weight(random.normal({vocabulary, width}, at::kFloat)) {}

  at::Tensor gradient(bool use_weight) const {
    weight.mutable_grad().reset();
    const TiedEmbedding in = tied_embedding(weight, ids);
    at::Tensor sum = (in.rows * d_rows).sum();
    if (use_weight) sum = sum + (in.weight * d_weight).sum();
    sum.backward();
    return weight.grad();
  }
};

void check(const Lookup& l, const std::string& what) {
  EXPECT_TRUE(at::equal(tied_embedding(l.weight, l.ids).rows, at::embedding(l.weight, l.ids))) << what;
  for (const bool use_weight : {false, true}) {
    const at::Tensor other = use_weight ? l.d_weight : at::zeros_like(l.d_weight);
    const at::Tensor expected = expected_gradient(l.ids, l.d_rows, other), got = l.gradient(use_weight);
    // Of a sum of n terms in float32: each addition is off by half a unit of the sum so far.
    const double terms = static_cast<double>(l.ids.numel()) + 1, unit = 6e-8;
    const double largest = expected_gradient(l.ids, l.d_rows.abs(), other.abs()).max().item<double>();
    EXPECT_LE((got.to(at::kDouble) - expected).abs().max().item<double>(), unit * terms * largest) << what;
    EXPECT_TRUE(at::equal(got, l.gradient(use_weight))) << what << ": the same bits again";
  }
}

TEST(TiedEmbedding, GradientsOfBothUsesMeet) {
  Source random(1);
  for (const int64_t width : {1, 3, 4, 768, 770}) {
    const std::string of = " of width " + std::to_string(width);
    check(Lookup(50, width, random.integers({2, 33}, 0, 49, at::kLong), random), "few ids" + of);
    check(Lookup(5000, width, random.integers({3, 701}, 0, 4999, at::kLong), random), "many ids" + of);
    check(Lookup(5, width, random.integers({1, 2}, 4, 4, at::kLong), random), "the last id twice" + of);
  }
}

// More rows of one id than a block of the kernel keeps at a time, among others of its residue.
TEST(TiedEmbedding, ManyRowsOfOneId) {
  Source random(2);
  const at::Tensor ids = random.integers({4, 1500}, 0, 9, at::kLong);
  ids.narrow(0, 1, 2).fill_(7);
  ids.narrow(0, 3, 1).narrow(1, 0, 700).fill_(7 + 792);
  check(Lookup(1000, 12, ids, random), "one id in half of the places");
}

}  // namespace
}  // namespace smamba::ops
