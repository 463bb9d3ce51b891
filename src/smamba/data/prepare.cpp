#include "smamba/data/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/parallel.h"
#include "smamba/data/block_encoder.h"
#include "smamba/data/hash_set.h"
#include "smamba/data/prepare_journal.h"
#include "smamba/data/token_store_writer.h"

namespace smamba::data {
namespace {

using Clock = std::chrono::steady_clock;

bool ends_cleanly(const Error& error) {
  return error.code() == Exit::kInterrupted || error.code() == Exit::kTerminated;
}

/// Reads blocks in order under a lock, encodes them on many threads, and hands the results out in order again. What is
/// in flight is bounded in bytes; a block larger than the bound runs nearly alone.
class EncodingPool {
 public:
  EncodingPool(std::unique_ptr<BlockSource> source, const std::function<std::unique_ptr<BlockEncoder>()>& make_encoder,
               int threads, size_t budget)
      : source_(std::move(source)), budget_(budget) {
    for (int i = 0; i < threads; ++i) {
      try {
        threads_.emplace_back([this, encoder = std::shared_ptr(make_encoder())] { work(*encoder); });
      } catch (const std::system_error& error) {  // the system allows no more threads: fewer do the same
        if (threads_.empty()) fail(Exit::kRetry, "data prepare: cannot start a thread: {}", error.what());
        break;
      }
    }
  }
  ~EncodingPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (auto& t : threads_) t.join();
  }
  EncodingPool(const EncodingPool&) = delete;
  EncodingPool& operator=(const EncodingPool&) = delete;

  /// False at the end; waits at most `patience` and then sets `ready` false. Errors of reading and of threads are
  /// rethrown in order.
  bool next(EncodedBlock& out, bool& ready, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    const auto there = [&] { return done_.contains(wanted_) || (ended_ && wanted_ == issued_); };
    ready = changed_.wait_for(lock, patience, there);
    if (!ready) return true;
    const auto found = done_.find(wanted_);
    if (found == done_.end()) {
      if (error_) std::rethrow_exception(error_);
      return false;
    }
    Done done = std::move(found->second);
    done_.erase(found);
    ++wanted_;
    in_flight_ -= done.cost;
    changed_.notify_all();
    lock.unlock();
    if (done.error) std::rethrow_exception(done.error);
    out = std::move(done.block);
    return true;
  }

 private:
  struct Done {
    EncodedBlock block;
    size_t cost = 0;
    std::exception_ptr error;
  };

  void work(BlockEncoder& encoder) {
    Block block;
    for (;;) {
      uint64_t number = 0;
      size_t cost = 0;
      if (!take(block, number, cost)) return;
      Done done;
      done.cost = cost;
      try {
        done.block = encoder.encode(std::move(block));
      } catch (...) {
        done.error = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      done_.emplace(number, std::move(done));
      changed_.notify_all();
    }
  }

  bool take(Block& block, uint64_t& number, size_t& cost) {
    const std::lock_guard reading(source_mutex_);
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ended_ || in_flight_ < budget_; });
      if (stop_ || ended_) return false;
    }
    bool any = false;
    std::exception_ptr error;
    try {
      any = source_->next(block);
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    if (!any) {
      ended_ = true;
      error_ = error;
      changed_.notify_all();
      return false;
    }
    number = issued_++;
    cost = std::max<size_t>(1, std::max<size_t>(block.bytes.size(), block.files.empty() ? 0 : block.input_bytes));
    in_flight_ += cost;
    return true;
  }

  std::unique_ptr<BlockSource> source_;
  const size_t budget_;
  std::mutex source_mutex_, mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Done> done_;
  uint64_t issued_ = 0, wanted_ = 0;
  size_t in_flight_ = 0;
  bool stop_ = false, ended_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

/// One preparation.
class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options) : options_(options) { resolve(); }

  PrepareProgress run() {
    std::optional<JournalEntry> journal = open_journal();
    const StorePosition position = journal ? journal->store : StorePosition{};
    InputPosition input = journal ? journal->input : InputPosition{};
    if (journal) {
      counts_ = journal->counts;
      counts_.resumed = true;
      count_store(position);
    }
    for (const InputUnit& u : units_) counts_.input_total += u.size;
    // What the helper process sends is not in proportion to its file, and a pipe has no size.
    const auto unknown = [](const InputUnit& u) { return u.format == InputFormat::kColumnar || u.path == "-"; };
    if (std::any_of(units_.begin(), units_.end(), unknown)) counts_.input_total = 0;
    started_bytes_ = counts_.input_bytes;
    TokenStoreWriter writer(options_.output, options_.tokenizer, position);
    if (!journal) std::filesystem::remove(TokenStoreWriter::work_folder(options_.output) / "progress.json");
    try {
      if (options_.deduplicate) writer.for_each_hash([&](const Hash128& hash) { seen_.insert(hash); });
      copy(writer, input);
    } catch (const Error& error) {
      if (ends_cleanly(error)) writer.keep();
      throw;
    }
    finish(writer);
    return counts_;
  }

 private:
  void resolve() {
    require(!options_.inputs.empty(), "data prepare: expected at least one input, found none");
    require(options_.tokenizer != nullptr, "data prepare: expected a tokenizer, found none");
    require(!options_.output.empty(), "data prepare: expected an output path, found none");
    require(options_.output.has_filename(), "data prepare: expected the name of a file to write, found {}",
            options_.output.string());
    require_replaceable(options_.output);
    require(options_.overwrite || !std::filesystem::exists(options_.output),
            "{}: expected no such file, found one (--overwrite replaces it)", options_.output.string());
    const CorpusPreset* preset = options_.preset.empty() ? nullptr : &corpus_preset(options_.preset);
    if (options_.column.empty()) options_.column = preset ? preset->column : "text";
    if (options_.row_limit < 0) options_.row_limit = preset ? static_cast<int64_t>(preset->rows) : 0;
    if (options_.threads <= 0) options_.threads = num_threads();
    units_ = classify_inputs(options_.inputs, options_.format, options_.patterns, preset);
    std::error_code ignored;
    for (const InputUnit& u : units_)
      require(!std::filesystem::equivalent(u.path, options_.output, ignored),
              "{}: expected an output that is none of the inputs", options_.output.string());
    folders_.emplace(options_.output);
  }

  /// Everything that decides the bytes of the output.
  std::string identity() const {
    std::string text = fmt::format("1|{}|{}|{}|{}|{}|{}|{}", options_.tokenizer->fingerprint(), options_.column,
                                   options_.row_limit, static_cast<int>(options_.rules.bad_text),
                                   options_.rules.max_document_bytes, options_.deduplicate, options_.split);
    for (const InputUnit& u : units_) text += fmt::format("|{}|{}|{}", u.path.string(), to_string(u.format), u.size);
    return hash128(text).hex();
  }

  std::optional<JournalEntry> open_journal() const {
    const auto folder = TokenStoreWriter::work_folder(options_.output);
    if (options_.restart) return std::nullopt;
    auto journal = read_journal(folder);
    require(!journal || journal->options == identity(),
            "{}: was begun with other options or inputs: the same ones go on, --restart begins anew", folder.string());
    return journal;
  }

  void copy(TokenStoreWriter& writer, InputPosition& input) {
    BlockOptions block_options{.column = options_.column,
                               .rules = options_.rules,
                               .row_limit = static_cast<uint64_t>(options_.row_limit),
                               .split = options_.split,
                               .reader_python = options_.reader_python,
                               .end_of_text = options_.tokenizer->special().end_of_text,
                               .block_bytes = options_.block_bytes};
    const auto make_encoder = [&] {
      return std::make_unique<BlockEncoder>(options_.tokenizer, options_.column, options_.rules);
    };
    const size_t budget =
        std::min<size_t>(static_cast<size_t>(options_.threads) * 2 * options_.block_bytes, size_t{128} << 20);
    EncodingPool pool(open_blocks(units_, block_options, input), make_encoder, options_.threads, budget);
    EncodedBlock block;
    bool ready = false;
    const auto more = [&] {
      try {
        return pool.next(block, ready, std::chrono::milliseconds(100));
      } catch (const Error& error) {  // the signal found the reader waiting for input
        if (options_.signal && ends_cleanly(error)) stop(writer, input);
        throw;
      }
    };
    while (!limit_reached() && more()) {
      if (ready) {
        add(writer, block);
        input = block.end;
      }
      if (options_.signal && *options_.signal != 0) stop(writer, input);
      if (seconds_since(checkpoint_) >= options_.checkpoint_seconds) checkpoint(writer, input);
      report(/*force=*/false);
    }
  }

  bool limit_reached() const {
    return options_.row_limit > 0 && counts_.rows >= static_cast<uint64_t>(options_.row_limit);
  }

  void add(TokenStoreWriter& writer, const EncodedBlock& block) {
    const uint64_t left =
        options_.row_limit > 0 ? static_cast<uint64_t>(options_.row_limit) - counts_.rows : block.rows + 1;
    if (block.error && block.error_row < left) throw *block.error;
    uint64_t begin = 0;
    for (const EncodedDocument& d : block.documents) {
      if (d.row >= left) break;
      if (!options_.deduplicate || seen_.insert(d.hash))
        writer.add_packed(block.tokens.slice(begin, d.token_end), d.bytes, d.hash);
      else
        ++counts_.duplicates;
      begin = d.token_end;
    }
    counts_.rows += std::min(left, block.rows);
    counts_.skipped += block.skipped;
    counts_.input_bytes += block.input_bytes;
    count_store(writer.position());
  }

  void count_store(const StorePosition& store) {
    counts_.documents = store.documents;
    counts_.tokens = store.tokens;
    counts_.text_bytes = store.text_bytes;
  }

  void checkpoint(TokenStoreWriter& writer, const InputPosition& input) {
    const StorePosition store = writer.sync();
    write_journal(TokenStoreWriter::work_folder(options_.output), {identity(), input, store, counts_});
    checkpoint_ = Clock::now();
  }

  [[noreturn]] void stop(TokenStoreWriter& writer, const InputPosition& input) {
    checkpoint(writer, input);
    const bool terminated = *options_.signal == SIGTERM;
    fail(terminated ? Exit::kTerminated : Exit::kInterrupted,
         "{}: stopped after {} documents; the same command goes on from there", options_.output.string(),
         counts_.documents);
  }

  void finish(TokenStoreWriter& writer) {
    if (counts_.documents == 0)
      fail(Exit::kBadData, "{}: expected at least one document, found none in {} rows ({} empty or bad)",
           fmt::join(options_.inputs, ", "), counts_.rows, counts_.skipped);
    writer.commit();
    counts_.fraction = 1;
    report(/*force=*/true);
  }

  void report(bool force) {
    if (!force && seconds_since(reported_) < 0.5) return;
    reported_ = Clock::now();
    counts_.seconds = seconds_since(started_);
    if (!force && options_.row_limit > 0)
      counts_.fraction = static_cast<double>(counts_.rows) / static_cast<double>(options_.row_limit);
    else if (!force && counts_.input_total > 0)
      counts_.fraction =
          std::min(1.0, static_cast<double>(counts_.input_bytes) / static_cast<double>(counts_.input_total));
    const double done = counts_.fraction, speed_bytes = static_cast<double>(counts_.input_bytes - started_bytes_);
    counts_.seconds_left = done > 0 && speed_bytes > 0 ? counts_.seconds * (1 - done) / done : 0;
    if (options_.on_progress) options_.on_progress(counts_);
  }

  static double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

  PrepareOptions options_;
  std::vector<InputUnit> units_;
  std::optional<ParentFolders> folders_;
  PrepareProgress counts_;
  uint64_t started_bytes_ = 0;
  HashSet seen_;
  Clock::time_point started_ = Clock::now(), reported_ = started_, checkpoint_ = started_;
};

}  // namespace

PrepareProgress prepare_store(const PrepareOptions& options) { return Preparation(options).run(); }

}  // namespace smamba::data
