// Logs, traces, and who is told when something needs a person.
param location string
param insightsName string
param workspaceName string
param alertEmail string

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: workspaceName
  location: location
  properties: {
    retentionInDays: 30
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: insightsName
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
  }
}

resource actions 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: '${insightsName}-operators'
  location: 'global'
  properties: {
    enabled: true
    groupShortName: 'geoworker'
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: alertEmail
        useCommonAlertSchema: true
      }
    ]
  }
}

output insightsName string = insights.name
output workspaceName string = workspace.name
output actionGroupId string = actions.id
