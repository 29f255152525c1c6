using OpenSora.Models;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Tests;

public class AllPublicTypesTests
{
    [Fact]
    public void The_libraries_have_few_public_types_together() =>
        (typeof(StdiT).Assembly.GetExportedTypes().Length + typeof(StagedTrainer).Assembly.GetExportedTypes().Length).ShouldBeLessThanOrEqualTo(135);
}
