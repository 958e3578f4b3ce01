# frozen_string_literal: true

# What recorder.py is to programs in Python: takes an order, keeps the same ledger, answers the same JSON.
require "json"

Order = Struct.new(:role, :url, :jobs, :first, :how, :kind, :goal, :slots, :pace, :begin, :warm, :server, :patience,
  :options, keyword_init: true)
ORDER = Order.new(jobs: 0, first: 0, how: "one", kind: "noop", slots: 100, pace: 0, server: 0, patience: 60,
  **JSON.parse(ARGV.fetch(0), symbolize_names: true))
THREADS = 8
BULK = 1_000
SETTLING = 0.3
TICK = 100.0

def say(answer)
  $stdout.puts(JSON.generate(answer))
  $stdout.flush
  exit!(0)
end

def clock(which = Process::CLOCK_MONOTONIC) = Process.clock_gettime(which)

def cpu_of(pid)
  return 0.0 if pid.zero?

  children = Dir.glob("/proc/#{pid}/task/*/children").flat_map { |file| File.read(file).split }
  ticks = [pid.to_s, *children].sum do |one|
    fields = File.read("/proc/#{one}/stat").rpartition(") ").last.split.map(&:to_i)
    fields[11] + fields[12] + (one == pid.to_s ? fields[13] + fields[14] : 0)
  rescue SystemCallError # it ended meanwhile
    0
  end
  ticks / TICK
end

def rss = File.read("/proc/self/statm").split[1].to_i * 4096.0 / 2**20

# Wall clock, CPU of this process and of the server, from now until it is read.
class Meter
  def initialize
    @cpu, @server, @began = clock(Process::CLOCK_PROCESS_CPUTIME_ID), cpu_of(ORDER.server), clock
  end

  def read
    { seconds: clock - @began, cpu: clock(Process::CLOCK_PROCESS_CPUTIME_ID) - @cpu,
      server_cpu: cpu_of(ORDER.server) - @server }
  end
end

def content
  case ORDER.kind
  when "stamp" then clock.to_s
  when "payload" then "x" * 10_240
  else ""
  end
end

def numbers = ORDER.first...(ORDER.first + ORDER.jobs)

# Defer the ordered jobs in the ordered way, and say what it took.
def defer(one, bulk)
  one.call(-1, content) if ORDER.warm
  meter = Meter.new
  case ORDER.how
  when "one" then numbers.each { |number| one.call(number, content) }
  when "flight" then in_flight(one)
  when "paced" then paced(one)
  else numbers.each_slice(BULK) { |part| bulk.call(part.map { |number| [number, content] }) }
  end
  say(meter.read)
end

def in_flight(one)
  waiting = Queue.new(numbers).close
  lane = lambda do
    while (number = waiting.pop)
      one.call(number, content)
    end
  end
  Array.new(THREADS) { Thread.new(&lane) }.each(&:join)
end

def paced(one)
  began = clock
  numbers.each_with_index do |number, index|
    ahead = began + index.fdiv(ORDER.pace) - clock
    sleep(ahead) if ahead.positive?
    one.call(number, content)
  end
end

# Which jobs ran, and how long it took from the first one's start to the last one's.
class Ledger
  def initialize
    @counts, @latencies, @lock, @runs, @over = Hash.new(0), [], Mutex.new, 0, Queue.new
    @meter = Meter.new
    Thread.new { watch }
  end

  # A job runs. May be called in any thread.
  def run(number, content)
    sleep(0.01) if ORDER.kind == "nap"
    burn if ORDER.kind == "cpu"
    @lock.synchronize { ran(number, content) }
  end

  private

  def ran(number, content)
    @latencies << clock - content.to_f if ORDER.kind == "stamp" && !content.empty?
    @counts[number] += 1
    @runs += 1
    first if @runs == 1
    @over << @meter.read.merge(rss: rss) if @runs == ORDER.jobs
  end

  def first
    @meter = Meter.new
    $stdout.puts("first")
    $stdout.flush
  end

  def watch
    Thread.new { sleep(ORDER.patience) && @over << nil }
    figures = @over.pop
    sleep(SETTLING)
    say({ **(figures || @meter.read), complete: !figures.nil?, latencies: @latencies, **ledger })
  end

  def ledger
    { lost: numbers.count { |number| !@counts.key?(number) }, duplicated: @counts.each_value.sum { |count| count - 1 },
      unexplained: @counts.each_key.count { |number| !numbers.cover?(number) } }
  end

  # About a millisecond.
  def burn
    until_then = clock + 0.001
    nil while clock < until_then
  end
end

def serve(packages, roles)
  say({ versions: packages.to_h { |name| [name, Gem.loaded_specs.fetch(name).version.to_s] } }) if ORDER.role == "versions"
  role = roles[ORDER.role.to_sym] || say({ missing: "no #{ORDER.role}" })
  role.call
end
