# frozen_string_literal: true

# Sidekiq on YJIT, ten threads (a hundred for jobs that wait), its logger at warnings; at most once.
require_relative "recorder"

ENV["REDIS_URL"] = ORDER.url
gem "sidekiq"
require "sidekiq/cli"
Sidekiq.logger.level = Logger::WARN

class Job
  include Sidekiq::Worker
  singleton_class.attr_accessor :ledger

  def perform(number, content) = Job.ledger.run(number, content)
end

def produce
  Sidekiq.configure_client { |config| config.redis = { url: ORDER.url, size: THREADS } }
  defer(->(number, content) { Job.perform_async(number, content) },
    ->(part) { Sidekiq::Client.push_bulk("class" => Job, "args" => part) })
end

def work
  Job.ledger = Ledger.new
  threads = ORDER.kind == "nap" ? ORDER.slots : 10
  cli = Sidekiq::CLI.instance
  # What `-r` names is required already.
  cli.parse(["-c", threads.to_s, "-q", "default", "-r", File.expand_path("recorder.rb", __dir__)])
  cli.run
end

serve(%w[sidekiq redis], { defer: method(:produce), work: method(:work) })
