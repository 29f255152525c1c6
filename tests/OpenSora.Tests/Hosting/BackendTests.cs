using Microsoft.Extensions.DependencyInjection;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Tests.Hosting;

internal sealed class FakeBackend(string name, int priority, string? missing = null) : IComputeBackend
{
    public string Name => name;

    public int Priority => priority;

    public Device Device => CPU;

    public (bool IsAvailable, string Reason) CheckAvailability() => (missing is null, missing ?? "as new");
}

public class BackendTests
{
    [Fact]
    public void The_best_available_backend_is_used()
    {
        var selector = new BackendSelector([
            new CpuBackend(),
            new FakeBackend("slow", 10),
            new FakeBackend("fast", 50),
            new FakeBackend("gone", 99, "it was sold."),
        ]);
        selector.Select().Name.ShouldBe("fast");
        selector.Select("auto").Name.ShouldBe("fast");
        selector.Select("AUTO").Name.ShouldBe("fast");
    }

    [Fact]
    public void A_backend_requested_by_name_is_used_whatever_its_priority()
    {
        var selector = new BackendSelector([new CpuBackend(), new FakeBackend("fast", 50)]);
        selector.Select("cpu").Name.ShouldBe("cpu");
        selector.Select("CPU").Device.ShouldBe(CPU);
    }

    [Fact]
    public void A_backend_that_cannot_be_used_says_why()
    {
        var selector = new BackendSelector([new CpuBackend(), new FakeBackend("gone", 99, "it was sold.")]);
        var e = Should.Throw<BackendUnavailableException>(() => selector.Select("gone"));
        e.Message.ShouldContain("'gone' is not available: it was sold.");
        e.Message.ShouldContain("cpu (available");
        Should.Throw<BackendUnavailableException>(() => selector.Select("metal")).Message.ShouldContain("no backend 'metal'");
        Should
            .Throw<BackendUnavailableException>(() => new BackendSelector([new FakeBackend("gone", 1, "it was sold")]).Select())
            .Message.ShouldContain("it was sold");
    }

    [Fact]
    public void Of_one_name_the_last_counts() =>
        new BackendSelector([new FakeBackend("x", 1), new FakeBackend("X", 7)]).Select("x").Priority.ShouldBe(7);

    [Fact]
    public void A_referenced_package_offers_its_backend_and_says_why_it_cannot_be_used()
    {
        // Nothing in this project names a type of OpenSora.Cuda.
        var (backend, availability) = Discovered().Describe().Single(d => string.Equals(d.Backend.Name, "cuda", StringComparison.Ordinal));
        backend.Priority.ShouldBeGreaterThan(0);
        availability.IsAvailable.ShouldBe(cuda.is_available());
        if (availability.IsAvailable)
        {
            Discovered().Select().Name.ShouldBe("cuda");
        }
        else
        {
            Should.Throw<BackendUnavailableException>(() => Discovered().Select("cuda")).Message.ShouldContain(availability.Reason);
        }
    }

    [Fact]
    public void AddCuda_offers_another_card()
    {
        using var services = new ServiceCollection().AddOpenSora().AddCuda(7).Services.BuildServiceProvider();
        var (backend, availability) = services
            .GetRequiredService<BackendSelector>()
            .Describe()
            .Single(d => string.Equals(d.Backend.Name, "cuda", StringComparison.Ordinal));
        availability.IsAvailable.ShouldBe(cuda.is_available() && cuda.device_count() > 7);
        availability.Reason.ShouldNotBeNullOrWhiteSpace();
        backend.Device.index.ShouldBe(7);
    }

    private static BackendSelector Discovered() => new([new CpuBackend(), .. BackendSelector.Discovered.Value]);
}
